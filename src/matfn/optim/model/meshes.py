"""Meshes: the processes over which a model is spread, by words or as torch has them, and who holds what of a parameter.

A mesh of words need not exist. Its parameters are taken as spread in the usual way: tensor parallel by columns and
rows, FSDP along the first axis, experts by expert parallel.
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..matrices.exchange_plan import Split
from ..matrices.shards import is_dtensor, placements_of

if TYPE_CHECKING:
    from .plan import Entry

__all__ = ["AXES", "Mesh", "Placed", "largest_mesh", "mesh_of"]

AXES = ("replicate", "fsdp", "tp", "ep")
LIMIT = 2**16  # ranks
_USUAL = {1: ("fsdp",), 2: ("fsdp", "tp"), 3: ("replicate", "fsdp", "tp")}
_WANTED = 'a text such as "8", "8x8" (fsdp x tp), "2x8x8" (replicate x fsdp x tp) or "fsdp=32,tp=8,ep=64", or a tuple'

# The last name of a layer whose input is cut by tensor parallel, because the layer before gives it in parts.
_ROWWISE = r"o|out|wo|w2|down|(o|out|down|c|dense)_proj|proj|proj_out|to_out|fc2|linear2|dense_4h_to_h|down_projs?"
# The last name of a layer that tensor parallel leaves whole: routers, and the projections into a latent space.
_WHOLE = r"router|gate|\w+_a(_proj)?|kv_a_proj_with_mqa"


@dataclass(frozen=True)
class Placed:
    """Where a parameter is.

    Attributes:
        axes: {name: size} of the mesh of the parameter.
        placements: How each of these axes cuts it.
    """

    axes: tuple[tuple[str, int], ...]
    placements: tuple[Split | None, ...]

    @property
    def sizes(self) -> tuple[int, ...]:
        """The sizes of the axes."""
        return tuple(size for _, size in self.axes)


@dataclass(frozen=True)
class Mesh:
    """The sizes of the axes of a mesh.

    Attributes:
        sizes: {axis: size}, in the order of `AXES`. Experts are spread over `ep` ranks, taken from fsdp x tp.
        device_mesh: The DeviceMesh, or the process group of DDP, if the processes exist and hold the parameters as they
            are. None is a mesh of words, over which plain parameters are taken as spread.
        shared: Whether the processes of a DeviceMesh share plain parameters. If not, each computes all of them.
    """

    sizes: Mapping[str, int]
    device_mesh: Any = None
    shared: bool = True

    @property
    def real(self) -> bool:
        """Whether the processes exist."""
        return self.device_mesh is not None

    @property
    def cuts(self) -> bool:
        """Whether a mesh of words cuts parameters. One of replicas alone does not: it stands for DDP."""
        return not self.real and any(self.sizes.get(axis, 1) > 1 for axis in ("fsdp", "tp"))

    @property
    def ranks(self) -> int:
        """The number of processes."""
        return math.prod(size for axis, size in self.sizes.items() if self.real or axis != "ep")

    def __str__(self) -> str:
        axes = [_shown(axis, size) for axis, size in self.sizes.items() if self.real or axis != "ep"]
        experts = f", experts over {self.sizes['ep']}" if not self.real and self.sizes.get("ep", 1) > 1 else ""
        shape = f" ({' x '.join(axes)}{experts})" if axes != [str(self.ranks)] else ""
        return f"{self.ranks} {'rank' if self.ranks == 1 else 'ranks'}{shape}"

    def placed(self, entry: "Entry") -> Placed:
        """How the mesh cuts a parameter of a plan."""
        if is_dtensor(entry.parameter):
            return Placed(_axes(entry.parameter.device_mesh), placements_of(entry.parameter))
        if self.real:
            return Placed((("replicate", self.ranks if self.shared else 1),), (None,))
        replicate, fsdp, tp, ep = (self.sizes.get(axis, 1) for axis in AXES)
        shape = entry.parameter.shape
        if entry.role == "expert" and len(shape) == 3 and ep > 1:
            inside = fsdp * tp // ep  # ranks that share the same experts
            cuts = (None, Split(0, last=True) if inside * ep <= shape[0] else Split(1), Split(0))
            return Placed((("replicate", replicate), ("inside", inside), ("ep", ep)), cuts)
        cut = _tensor_parallel(entry) if tp > 1 else None
        axes = (("replicate", replicate), ("fsdp", fsdp), ("tp", tp))
        return Placed(axes, (None, Split(0, last=cut == 0), None if cut is None else Split(cut)))

    def refuse_others(self, entries: Iterable["Entry"]) -> None:
        """Refuse sharded parameters whose mesh is no part of this mesh.

        Raises:
            ValueError: If there is one. The message names it, and both meshes.
        """
        for entry in entries:
            if not is_dtensor(entry.parameter):
                continue
            own = entry.parameter.device_mesh
            ranks = set(own.mesh.flatten().tolist())
            inside = not hasattr(self.device_mesh, "mesh") or ranks <= set(self.device_mesh.mesh.flatten().tolist())
            try:
                self.positions(self.placed(entry))
            except ValueError:
                inside = False
            if not inside:
                raise ValueError(
                    f"plan: parameter {entry.name!r} is sharded over {own}, which is no part of mesh={self}. Give the "
                    "mesh over which the model is sharded, or leave out mesh=."
                )

    def positions(self, placed: Placed) -> NDArray[np.int64]:
        """The index of each rank among those that share a parameter.

        A part of the axes of a mesh makes several groups of ranks, one for each place along the other axes.

        Raises:
            ValueError: If the mesh of the parameter is no part of this mesh.
        """
        ranks, names = math.prod(placed.sizes), list(self.sizes)
        if ranks in (1, self.ranks):
            return np.arange(self.ranks) % ranks
        if any(self.sizes.get(name) != size for name, size in placed.axes):
            words = " x ".join(_shown(name, size) for name, size in placed.axes)
            raise ValueError(
                f"Plan.outlook: a parameter is sharded over {words} ranks, which are no part of {self}. Give the whole "
                "mesh of the processes, or make the plan before the model is sharded."
            )
        at = np.indices(tuple(self.sizes.values())).reshape(len(names), -1)
        along = tuple(at[names.index(name)] for name, _ in placed.axes)
        return np.asarray(np.ravel_multi_index(along, placed.sizes))


def _axes(device_mesh: Any) -> tuple[tuple[str, int], ...]:
    """The names and sizes of the axes of a DeviceMesh; "#" and a number is an axis without a name."""
    names = device_mesh.mesh_dim_names or tuple(f"#{i}" for i in range(device_mesh.ndim))
    return tuple(zip(names, device_mesh.shape, strict=True))


def _shown(axis: str, size: int) -> str:
    """An axis and its size; the size alone if the axis has no name."""
    return str(size) if axis.startswith("#") else f"{axis} {size}"


def mesh_of(given: Any, where: str) -> Mesh:
    """The mesh that a text, a tuple or a DeviceMesh means.

    Args:
        given: The mesh.
        where: The name of the argument, for messages.

    Raises:
        TypeError: If it is none of them.
        ValueError: If axes or sizes do not make a mesh.
    """
    if isinstance(given, Mesh):
        return given
    if hasattr(given, "mesh_dim_names") and hasattr(given, "get_group"):
        return Mesh(dict(_axes(given)), given)
    if isinstance(given, int) and not isinstance(given, bool):
        given = (given,)
    if isinstance(given, str):
        sizes = _read(given, where)
    elif isinstance(given, tuple | list):
        sizes = _named(given, where)
    else:
        raise TypeError(f"{where} must be a DeviceMesh, {_WANTED} of sizes, got {type(given).__name__}.")
    bad = [n for n in sizes.values() if isinstance(n, bool) or not isinstance(n, int) or n < 1]
    mesh = Mesh({axis: sizes[axis] for axis in AXES if axis in sizes})
    if bad or mesh.ranks > LIMIT:
        raise ValueError(f"{where}: every size must be at least 1, and their product at most {LIMIT}, got {given!r}.")
    experts, ranks = sizes.get("ep", 1), sizes.get("fsdp", 1) * sizes.get("tp", 1)
    if ranks % experts:
        raise ValueError(
            f"{where}: ep={experts} must divide fsdp x tp = {ranks}, because experts are spread over those ranks."
        )
    return mesh


def largest_mesh(entries: Iterable["Entry"]) -> Mesh:
    """The largest mesh of the sharded parameters of a plan, whose processes compute plain parameters each for itself.

    Raises:
        ValueError: If no parameter is sharded.
    """
    meshes = [entry.parameter.device_mesh for entry in entries if is_dtensor(entry.parameter)]
    if not meshes:
        raise ValueError('Plan.outlook: give a mesh, such as mesh="8x8", because no parameter is sharded.')
    return replace(mesh_of(max(meshes, key=lambda mesh: mesh.size()), "mesh"), shared=False)


def _named(sizes: Any, where: str) -> dict[str, int]:
    """The sizes of a tuple with the names of its axes."""
    if len(sizes) not in _USUAL:
        raise ValueError(f"{where} must be {_WANTED} of sizes, got {len(sizes)} sizes.")
    return dict(zip(_USUAL[len(sizes)], sizes, strict=True))


def _read(text: str, where: str) -> dict[str, int]:
    """The sizes in a text, by axis."""
    plain = re.sub(r"\s*([x,=])\s*", r"\1", text.strip().lower())
    if re.fullmatch(r"\d{1,18}(x\d{1,18}){0,2}", plain, re.ASCII):
        return _named([int(size) for size in plain.split("x")], where)
    pairs = re.findall(r"([a-z]+)=(\d{1,18})(?:,|$)", plain, re.ASCII)
    names = [name for name, _ in pairs]
    whole = ",".join(f"{name}={size}" for name, size in pairs) == plain
    if not pairs or not whole or len(set(names)) < len(names) or set(names) - set(AXES):
        raise ValueError(f"{where} must be {_WANTED} of sizes, with the axes {', '.join(AXES)}, got {text!r}.")
    return {name: int(size) for name, size in pairs}


def _tensor_parallel(entry: "Entry") -> int | None:
    """The axis that tensor parallel usually cuts: outputs, or inputs of layers that end a block; None for neither."""
    layer = entry.name.removesuffix(".weight").rsplit(".", 1)[-1]
    layout = entry.layout
    if layout is None or not layout.columns or re.fullmatch(_WHOLE, layer) or entry.role in ("conv", "depthwise"):
        return None
    part = layout.columns[0] if re.fullmatch(_ROWWISE, layer) else min((*layout.outer, layout.rows))
    before = math.prod(layout.split[:part])
    return sum(math.prod(layout.shape[: axis + 1]) <= before for axis in range(len(layout.shape)))
