"""Recipes: what is wrong in them is said with the place and the remedy; what is right survives writing and reading."""

import dataclasses
import math
import tomllib
import types
import typing
from dataclasses import MISSING
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from matfn.train import TrainError
from matfn.train import recipe as recipes
from matfn.train.settings import override, to_toml

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.toml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_shipped_recipes_are_valid_and_survive_writing(path):
    recipe = recipes.load(path)
    assert recipes.from_table(tomllib.loads(recipes.text(recipe))) == recipe
    assert len(recipe.arms) >= 3


def test_demo_is_the_small_model_and_three_optimizers():
    recipe = recipes.load(next(path for path in RECIPES if path.stem == "demo"))
    assert (recipe.model.layers, recipe.model.width, recipe.data.context, recipe.train.batch) == (4, 128, 128, 16)
    assert [(arm.kind, arm.lr, arm.weight_decay) for arm in recipe.arms] == [
        ("adamw", 2e-3, 0.1),
        ("torch-muon", 0.03, 0.01),
        ("muon", 0.03, 0.01),
    ]


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("train.stepz=3", "did you mean 'steps'"),
        ("optimizer.learning_rate=3", "unknown key 'optimizer.learning_rate'"),
        ("trian.steps=3", "did you mean 'train'"),
        ("train.steps=0", r"must lie in \[1"),
        ("train.steps=2.5", "must be a whole number, got 2.5"),
        ("train.steps=true", "must be a whole number, got True"),
        ("train.compile=1", "must be true or false"),
        ("train.device=tpu", "must be one of 'auto', 'cpu', 'cuda', got 'tpu'"),
        ("train=3", r"\[train\] must be a table"),
        ("optimizer.lr=nan", "must lie in"),
        ("compare.seeds=3", "must be a list"),
        ("compare.seeds=[1, 1]", "distinct"),
        ("model.heads=3", r"^model\.heads must divide"),
        ("train.warmup=11", r"^train\.warmup .* do not fit"),
        ("data.split=shard", 'needs data.source = "shards"'),
        ("steps", "wants key=value"),
        ("arms.9.lr=1", "has no member '9'"),
        ("arms.AdamX.lr=1", "has no member 'AdamX'"),
        ("arms.1.method=exact", r'arms\.1\.method belongs to kind = "muon"'),
        ("arms.1.scale=spectral", r'arms\.1\.scale = "spectral" is not'),
        ("arms.1.name=AdamW", "two arms share a name"),
    ],
)
def test_mistakes_are_named(table, assignment, message):
    with pytest.raises(TrainError, match=message):
        recipes.from_table(override(table, assignment))


def test_overrides_reach_tables_lists_and_new_keys(table):
    for assignment in ('arms."torch Muon".lr=0.5', "arms.0.rest.beta2=0.9", "train.device=cpu", "compare.seeds=[1, 2]"):
        table = override(table, assignment)
    recipe = recipes.from_table(table)
    assert recipe.arms[1].lr == 0.5
    assert recipe.arms[0].rest.beta2 == 0.9
    assert recipe.compare.seeds == (1, 2)


def test_override_leaves_the_original_alone(table):
    before = tomllib.loads(to_toml(table))
    override(table, "arms.0.lr=0.5")
    assert tomllib.loads(to_toml(table)) == before


def test_toml_writer_round_trips_awkward_values():
    table = {
        "a": 'quote " back \\ slash é',
        "b": [1, 2],
        "c": 1e-5,
        "d": {"e": True, "f": [{"g": 1}, {"g": {"h": []}}]},
    }
    assert tomllib.loads(to_toml(table)) == table


def test_which_arm(recipe):
    assert recipe.arm("AdamW").kind == "adamw"
    with pytest.raises(TrainError, match="which optimizer"):
        recipe.arm(None)
    with pytest.raises(TrainError, match="no arm 'Lion'"):
        recipe.arm("Lion")


def test_an_override_without_effect_is_refused(recipe):
    """The demo trains its arms; [optimizer] would be read by nobody."""
    recipes.check_used(recipe, ["train.steps=3", "arms.2.lr=0.5"], "matfn Muon")
    with pytest.raises(TrainError, match=r"'optimizer.lr=0.5' has no effect: .* write 'arms\.2\.lr=0\.5'"):
        recipes.check_used(recipe, ["train.steps=3", "optimizer.lr=0.5"], "matfn Muon")
    with pytest.raises(TrainError, match=r"write 'arms\.N\.rest\.lr=1'"):
        recipes.check_used(recipe, ["optimizer.rest.lr=1"])
    alone = recipes.from_table({"optimizer": {"kind": "muon"}})
    recipes.check_used(alone, ["optimizer.lr=0.5"])


def test_missing_and_broken_files(tmp_path):
    with pytest.raises(TrainError, match="cannot read the recipe"):
        recipes.load(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("[train\n")
    with pytest.raises(TrainError, match="no valid TOML"):
        recipes.load(tmp_path / "bad.toml")


def test_the_demo_says_the_same_time_everywhere():
    time = "3 minutes at most on 2 cores"
    demo = next(path for path in RECIPES if path.stem == "demo")
    assert time in demo.read_text().splitlines()[0]
    assert time in (demo.parents[1] / "Makefile").read_text()


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.sampled_from(
    ["", "inf", "nan", "\x7f", "\0", "\x1b[31m", '"', "'''", "\\", "#", "a = 1\n[model]\nlayers = 7", "\r\n", "\u2028"]
)


def values(kind, field):
    """Every value that a field of a recipe may have."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return st.none() | values(next(a for a in arguments if a is not type(None)), field)
    if origin is tuple:
        return st.lists(values(arguments[0], field), max_size=3).map(tuple)
    if dataclasses.is_dataclass(kind):
        return tables(kind)
    limits = field.metadata or {"low": -math.inf, "high": math.inf, "choices": ()}
    if limits["choices"]:
        return st.sampled_from(limits["choices"])
    low, high = (limits[end] if math.isfinite(limits[end]) else None for end in ("low", "high"))
    if kind is float:
        return st.floats(low, high, allow_nan=False)
    return {bool: st.booleans(), str: TEXTS}.get(kind, st.integers(int(low or 0), int(high or 2**31)))


def tables(kind):
    """Tables of a recipe; those that a check of several fields refuses become the default."""
    hints = typing.get_type_hints(kind)
    required = {f.name for f in dataclasses.fields(kind) if f.default is MISSING and f.default_factory is MISSING}
    options = {f.name: values(hints[f.name], f) for f in dataclasses.fields(kind)}
    drawn = st.fixed_dictionaries(
        {name: options[name] for name in required}, optional={n: v for n, v in options.items() if n not in required}
    )
    return drawn.map(lambda given: _made(kind, given, required))


def _made(kind, given, required):
    try:
        return kind(**given)
    except TrainError:
        return kind(**{name: given[name] for name in required})


@given(tables(recipes.Recipe))
@settings(max_examples=200, suppress_health_check=list(HealthCheck))
def test_every_recipe_reads_back(tmp_path_factory, recipe):
    """Infinity, control characters, quotes and line breaks included; `record` as well as `text`."""
    assert recipes.from_table(tomllib.loads(recipes.text(recipe))) == recipe
    path = tmp_path_factory.getbasetemp() / "recipe.toml"
    recipes.record(path, recipe, "0" * 64)
    assert recipes.recorded(path) == (recipe, "0" * 64)


@pytest.mark.parametrize("assignment", ["train.clip=inf", 'title="\\u007f"', "optimizer.lr=1e-320", "title='a\\b'"])
def test_settings_of_a_run_can_be_read_back(assignment, tmp_path):
    recipe = recipes.from_table(override({}, assignment))
    recipes.record(tmp_path / "recipe.toml", recipe, "")
    assert recipes.recorded(tmp_path / "recipe.toml")[0] == recipe


@pytest.mark.parametrize(
    ("value", "meant"),
    [
        ("x\n[model]\nlayers=7", "x\n[model]\nlayers=7"),
        ('"x"\n[model]\nlayers=7', '"x"\n[model]\nlayers=7'),
        ('"x"\nother="y"', '"x"\nother="y"'),
        ("a=b", "a=b"),
        ('"a=b"', "a=b"),
        ("'x' # a remark", "x"),
        ("", ""),
    ],
)
def test_a_setting_sets_one_key(value, meant):
    assert override({"title": "before"}, f"title={value}") == {"title": meant}


def test_a_quoted_key_may_hold_an_equals_sign(table):
    table["arms"][0]["name"] = "lr=1"
    assert override(table, 'arms."lr=1".lr=0.5')["arms"][0]["lr"] == 0.5
