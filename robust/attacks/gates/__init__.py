"""Gates: reasons not to believe a robustness figure, each measured on a small sample of crops and given a name.

An attack that fails looks exactly like a model that resists. A gate asks for something that must be true if the attack
works: that a larger ball breaks more, that a search without gradients does not find what the gradient missed, that an
example which is known to exist is found. `run.py` runs them, `evidence.py` runs each attack once for all of them.
docs/gates.md has every gate with its reason, its threshold and its remedy.
"""

from robust.attacks.gates.budget import Budget
from robust.attacks.gates.gate import Gate
from robust.attacks.gates.run import GATES, NEED_SURROGATES, PRECONDITIONS, run_gates

__all__ = ["Budget", "GATES", "Gate", "NEED_SURROGATES", "PRECONDITIONS", "run_gates"]
