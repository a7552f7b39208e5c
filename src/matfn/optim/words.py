"""Words of other optimizers (of torch, Keller Jordan, Moonlight, Dion, ...): translated, or refused with ours."""

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from .options import meant

__all__ = ["hint", "naming_arguments", "refuse_flags", "ruled"]

_METHOD = "method=PolarExpress(steps=...), or method=Tuned('jordan') for the coefficients of torch"
_SCALE = (
    'scale="jordan" (torch\'s "original"), "moonlight" ("match_rms_adamw", "rms_norm") or "spectral" ("spectral_norm")'
)
_REST = "rest=dict(lr=..., betas=..., eps=..., weight_decay=...), the options of AdamW for the rest"
_GROUPS = 'plan(model), or groups with "rule": "matrix" and "rule": "adamw", as params'
_LAYOUT = '"layout" in the group (matfn.optim.layout), or plan(model, heads=..., qkv=...)'
_MACHINE = "engine= and products=, if the choice of the run plan does not suit; else leave it out"
_ONE = "nothing: every process holds every parameter whole, so leave it out"
_CUTTING = "cutting=Cutting(block=..., merge=..., largest=...)"

# {word: what to write here}. Constructors and groups refuse these words.
_OURS: dict[str, str] = {
    **dict.fromkeys(("ns_steps", "ns_coefficients", "ns_coeffs", "num_ns_steps", "coefficient_type"), _METHOD),
    **dict.fromkeys(("newton_schulz_func", "use_polar_express", "ns_algorithm", "ns_method", "ns_config"), _METHOD),
    **dict.fromkeys(("preconditioning", "polar_method", "orthogonalize_fn"), _METHOD),
    **dict.fromkeys(("adjust_lr_fn", "adjust_lr", "scale_mode", "use_adjusted_lr", "consistent_rms"), _SCALE),
    **dict.fromkeys(("extra_scale_factor", "rms_scale", "lr_scale_fn"), f"{_SCALE}, or a function (m, n) -> float"),
    **dict.fromkeys(("adamw_lr", "adamw_betas", "adamw_eps", "adamw_wd", "adam_lr", "adam_betas", "adam_eps"), _REST),
    **dict.fromkeys(("adam_wd", "adam_learning_rate", "adamw_weight_decay", "scalar_optimizer", "scalar_lr"), _REST),
    **dict.fromkeys(("amsgrad", "foreach", "maximize", "capturable", "differentiable", "fused"), _REST),
    **dict.fromkeys(("muon_params", "adamw_params", "adam_params", "use_muon", "algorithm"), _GROUPS),
    **dict.fromkeys(("flatten", "num_heads", "split_sizes", "param_split_fn", "param_recombine_fn"), _LAYOUT),
    **dict.fromkeys(("use_triton", "use_gram_newton_schulz", "use_syrk", "fp32_matmul_prec"), _MACHINE),
    **dict.fromkeys(("gram_newton_schulz_num_restarts",), "engine=Gram((2,)), whose argument is the steps of restarts"),
    **dict.fromkeys(("distributed_mesh", "process_group", "world_size", "rank"), _ONE),
    **dict.fromkeys(("mu", "momentum_beta", "beta1"), "momentum="),
    **dict.fromkeys(("wd", "weight_decouple", "weight_decay_method", "decoupled"), "weight_decay=, which is decoupled"),
    **dict.fromkeys(("cautious_wd", "cautious_weight_decay", "caution"), "cautious=True"),
    **dict.fromkeys(("use_nesterov",), "nesterov="),
    **dict.fromkeys(("muon_beta2", "shampoo_beta", "preconditioner_beta"), "beta2="),
    **dict.fromkeys(("stochastic_rounding", "bf16_stochastic_round"), 'rounding="stochastic"'),
    **dict.fromkeys(("precondition_frequency", "preconditioning_compute_steps"), "root_every= or basis_every="),
    **dict.fromkeys(("start_preconditioning_step",), "start="),
    **dict.fromkeys(("grafting_config", "grafting_type"), 'graft="adam", "sgd" or "none"'),
    **dict.fromkeys(("max_precond_dim", "max_preconditioner_dim", "merge_dims", "block_size"), _CUTTING),
    **dict.fromkeys(("exponent_override", "inv_root_override"), "root="),
}
# Words that only constructors refuse: in groups of AdamW they are options.
_ARGUMENTS = {"betas": f"momentum=, beta2= where the optimizer has it, and {_REST}", "eps": "nothing, or in rest="}
# Words of `_OURS` that groups may hold, because they are common names.
_KEPT_IN_GROUPS = frozenset({"rank", "world_size", "process_group"})
_ALGORITHMS = {"adamw": "adamw", "adam": "adamw"}


def hint(word: str, options: set[str]) -> str | None:
    """What to write instead of another library's word or a misspelt option; None for words that nobody knows."""
    if word in options:
        return None
    ours = {**_OURS, **_ARGUMENTS}.get(word)
    argument = ours.split("=")[0] if ours else ""
    if ours and argument.isidentifier() and argument not in options:
        return "nothing: this optimizer has no counterpart, so leave it out"
    close = meant(word, options)
    return ours or (f"{close}=" if close else None)


def ruled(group: Mapping[str, Any], optimizer: str, others: Iterable[str], where: str) -> dict[str, Any]:
    """A copy of a group, with the flags ``use_muon`` (Jordan) and ``algorithm`` (Dion) turned into "rule".

    ``algorithm`` may be "adamw", the optimizer's own name, or one of its further rules, the `others`.

    Raises:
        TypeError: If ``use_muon`` is no bool.
        ValueError: If ``algorithm`` is a rule that this optimizer lacks, or a flag contradicts "rule".
    """
    found = dict(group)
    if "use_muon" in found:
        flag = found.pop("use_muon")
        if not isinstance(flag, bool):
            raise TypeError(f"{where}: use_muon must be True or False, got {flag!r}.")
        _settle(found, "matrix" if flag else "adamw", f"use_muon={flag}", where)
    if "algorithm" in found:
        word = found.pop("algorithm")
        known = {**_ALGORITHMS, optimizer.lower(): "matrix", **{rule.lower(): rule for rule in others}}
        if not isinstance(word, str) or word.lower() not in known:
            raise ValueError(
                f"{where}: algorithm must be {optimizer.lower()!r} or 'adamw', got {word!r}. A group's rule is "
                '"matrix", "adamw", or the name of another optimizer in rules={...}.'
            )
        _settle(found, known[word.lower()], f"algorithm={word!r}", where)
    return found


def _settle(group: dict[str, Any], rule: str, flag: str, where: str) -> None:
    """Set "rule" to the rule that a flag means, unless "rule" is given; raise ValueError if the two contradict."""
    if group.get("rule", rule) != rule and not (rule == "matrix" and group["rule"] != "adamw"):
        raise ValueError(f'{where}: {flag} says the rule {rule!r}, but "rule" is {group["rule"]!r}. Give one of them.')
    group.setdefault("rule", rule)


def refuse_flags(group: Mapping[str, Any], own: set[str], where: str) -> None:
    """Raise ValueError for words of other optimizers in a group, where they would have no effect."""
    for word in group:
        if word in _OURS and word not in own and word not in _KEPT_IN_GROUPS:
            raise ValueError(f"{where} has {word!r}, a word of another optimizer. Here it is {_OURS[word]}.")


def naming_arguments(init: Callable[..., None]) -> Callable[..., None]:
    """A constructor whose errors for unknown arguments name the optimizer and the argument to use instead."""
    parameters = inspect.signature(init).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return init
    known = {name for name in parameters if name not in ("self", "params")}
    by_position = [name for name, p in parameters.items() if p.kind is not p.KEYWORD_ONLY and name != "self"]
    variadic = any(p.kind is p.VAR_POSITIONAL for p in parameters.values())

    @functools.wraps(init)
    def named(self: Any, *args: Any, **options: Any) -> None:
        for word in options:
            if word not in parameters:
                ours = hint(word, known)
                raise TypeError(
                    f"{type(self).__name__} has no argument {word!r}. "
                    + (f"Write {ours}." if ours else f"Its arguments are {', '.join(sorted(known))}.")
                )
        if len(args) > len(by_position) and not variadic:
            raise TypeError(
                f"{type(self).__name__} takes {', '.join(by_position)} by position, got {len(args)} values. Name the "
                f"others, for example {sorted(known - set(by_position))[-1]}=..."
            )
        init(self, *args, **options)

    return named
