"""TorchScript files. They are programs: loading one may run code of it, and that code can write files (measured: torch.save).

So nothing of a file is run before all of it is known to be arithmetic. Before loading: the archive is read without
unpacking more than the file holds, its pickles' instructions and names are compared with what torch writes, its source
must not define what loading would run (`__setstate__`) nor name operators outside torch, and torch gets a new archive of
the checked entries alone. After loading, before the first call: every instruction of every method must be one of
`torchscript_operators.ALLOWED`, which compute on tensors and touch nothing else. What remains: docs/audit.md.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator

import torch
from torch import nn

from robust.config import AuditedModelConfig
from robust.errors import UserError
from robust.models.foreign.archive import read_archive, require_pickle, write_archive
from robust.models.foreign.torchscript_operators import ALLOWED

ENTRIES = re.compile(r"data\.pkl|constants\.pkl|(\.data/)?version|byteorder|(data|constants)/\d+|code/__torch__([\w/]*)\.py")
"""What torch needs of an archive; debugging tables, traced inputs and extra files are left behind."""
PICKLES = ("data.pkl", "constants.pkl")
OPCODES = frozenset(
    "PROTO STOP MARK GLOBAL REDUCE BUILD NEWOBJ BINPERSID BINPUT LONG_BINPUT BINGET LONG_BINGET EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 "
    "EMPTY_LIST APPEND APPENDS LIST EMPTY_DICT SETITEM SETITEMS DICT NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINFLOAT "
    "BINUNICODE SHORT_BINSTRING BINSTRING POP".split()
)
NAMES = re.compile(
    r"__torch__\.[\w.]+|collections\.OrderedDict|torch\._utils\._rebuild_tensor_v2|torch\.jit\._pickle\.(build_\w+list|restore_type_tag)"
    r"|torch\.(Float|Half|BFloat16|Double|Long|Int|Short|Char|Byte|Bool)Storage|torch\.device"
)
CUSTOM_CLASSES = "torch.classes"
"""C++ classes of torch, some of which open connections and files."""
WHILE = "prim::Loop (while)"
FORBIDDEN = re.compile(rb"\b(__setstate__|__getstate__|classes|save|from_file)\b")
OPERATORS = re.compile(rb"(?<!\w)(?<!\w\.)ops\b(?!\.(prim|aten)\.)")


def load_torchscript(content: bytes, spec: AuditedModelConfig, where: str) -> tuple[nn.Module, str]:
    """Raises UserError: the file is damaged, or is more than arithmetic on tensors; nothing of it was run then."""
    entries = read_archive(content, where, wanted=lambda name: ENTRIES.fullmatch(name) is not None)
    _require_entries(entries, where)
    for name, data in entries.items():
        if name in PICKLES:
            require_pickle(data, f"{where}: {name}", opcodes=OPCODES, allowed=_known)
        elif name.startswith("code/"):
            _require_plain_source(data, f"{where}: {name}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that TorchScript is deprecated is no news to who has such a file
            script = torch.jit.load(write_archive(entries), map_location="cpu")
    except Exception as error:  # of torch's own parser, for whatever it can not read
        raise UserError(f"{where}: torch can not read it ({str(error).strip().splitlines()[0][:200]}); save it again with torch.jit.save") from None
    require_arithmetic(script, where)
    return _in_eval_mode(script), spec.output


def _require_entries(entries: dict[str, bytes], where: str) -> None:
    if missing := [name for name in PICKLES if name not in entries]:
        raise UserError(f"{where}: is no TorchScript file (no {', '.join(missing)} in it); a state dict is of kind timm, or save the model with torch.jit.save")
    if not any(name.startswith("code/") for name in entries):
        raise UserError(f"{where}: is no TorchScript file (no code in it); save the model with torch.jit.save")


def _known(name: str) -> bool:
    return NAMES.fullmatch(name) is not None and CUSTOM_CLASSES not in name


def _require_plain_source(source: bytes, where: str) -> None:
    """Before torch compiles it; what it computes is judged afterwards, by the compiled instructions."""
    if found := FORBIDDEN.search(source):
        raise UserError(f"{where}: names {found[0].decode()}, with which loading could run code or touch files; it was not loaded. "
                        "Trace the model with torch.jit.trace and save it again")
    if found := OPERATORS.search(source):
        line = source[: found.end() + 40].splitlines()[-1].strip().decode("utf-8", "replace")[:120]
        raise UserError(f"{where}: uses operators from outside torch ({line}); it was not loaded. Export the model without them, or as ONNX")


def require_arithmetic(script: torch.jit.ScriptModule, where: str) -> None:
    """Every instruction of every method of every module is allowed, and there is a `forward`; nothing is run.

    Raises:
        UserError: names the others.
    """
    found: set[str] = set()
    for module in (one._c for one in script.modules()):
        if module._get_forward_hooks() or module._get_forward_pre_hooks():
            raise UserError(f"{where}: has hooks that run beside its forward; it was not run. Remove them and save it again")
        for method in module._method_names():
            found |= set(_instructions(module._get_method(method).graph))
    if forbidden := sorted(found - ALLOWED):
        loop = "; loops can be traced away: torch.jit.trace" if WHILE in forbidden else ""
        raise UserError(f"{where}: does {', '.join(forbidden[:5])}, which is not among the operators of image classifiers that are allowed; "
                        f"it was not run. Export the model without them, or as ONNX{loop}")
    if "forward" not in script._c._method_names():
        raise UserError(f"{where}: has no forward method; save the whole model with torch.jit.save")


def _instructions(graph) -> Iterator[str]:
    """Kinds of all nodes, calls replaced by what they call."""
    graph = graph.copy()
    torch._C._jit_pass_inline(graph)
    waiting = list(graph.nodes())
    while waiting:
        node = waiting.pop()
        yield WHILE if node.kind() == "prim::Loop" and _may_not_end(node) else node.kind()
        for block in node.blocks():
            waiting += block.nodes()


def _may_not_end(loop) -> bool:
    """Whether it is a `while` and not a `for`: the condition to go on is computed, not the constant True."""
    (body,) = loop.blocks()
    return next(iter(body.returnNode().inputs())).node().kind() != "prim::Constant"


def _in_eval_mode(script: torch.jit.ScriptModule) -> nn.Module:
    for module in script.modules():
        if not hasattr(module, "training"):
            module.training = False  # a frozen module has lost the flag with the mode that it had
    return script.eval()
