"""Attacks on a detector's images: what is allowed (threat), how gradients are taken, one file per attack.

Every attack has one signature and one contract:

    attack(model, x, y, threat, *, steps, generator) -> x_adv

It keeps shape and dtype, stays in the threat's ball and in [0, 1], leaves the parameters' gradients and flags, the
BN statistics, the mode flags and the global random state as they were, and gives each image the same perturbation
whatever batch the image came in. `registry.py` says how a new attack is added.
"""
