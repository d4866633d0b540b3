from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path

import pytest
import yaml

from fullconv.base.errors import FullconvError
from fullconv.data.fingerprint import Fingerprint
from fullconv.train.plan import SLACK, Pace, Plan, default_epochs, learning_rate, make_plan
from fullconv.train.recipe import Recipe, read_recipe, shipped_recipes


def test_overrides_are_yaml_and_the_last_wins() -> None:
    recipe = read_recipe(
        "default", ["epochs=2.5", "crop=352x480", "ema=null", "scale_jitter=[1, 2]", "epochs=3"]
    )
    assert (recipe.epochs, recipe.crop, recipe.ema) == (3, (352, 480), None)
    assert recipe.scale_jitter == (1.0, 2.0)


@pytest.mark.parametrize(
    ("text", "crop"),
    [
        ("64", (64, 64)),
        ("64x96", (64, 96)),
        ("[5, 7]", (5, 7)),
        ("null", None),
        ("whole", "whole"),
    ],
)
def test_ways_to_write_a_crop(text: str, crop: tuple[int, int] | str | None) -> None:
    assert read_recipe("default", [f"crop={text}", "batch_size=1"]).crop == crop


def test_numbers_as_people_write_them() -> None:
    recipe = read_recipe("default", ["lr=1e-4", "minutes=45", "seed=7"])
    assert (recipe.lr, recipe.minutes, recipe.seed) == (1e-4, 45.0, 7)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("epoch=3", "--set epoch=3: there is no setting 'epoch'; did you mean epochs?"),
        ("zzz=3", "--set zzz=3: there is no setting 'zzz'; see the keys of a recipe.yaml"),
        ("epochs", "--set epochs: write --set key=value"),
        ("lr=[1", "--set lr=[1: '[1' is not YAML"),
        ("lr=fast", "lr cannot be 'fast' .*; lr: highest learning rate, above 0"),
        ("lr=-1", "lr cannot be -1 .*above 0"),
        ("lr=.nan", "lr cannot be nan"),
        ("optimizer=adam", "optimizer cannot be 'adam' .*; optimizer: adamw or sgd"),
        ("batch_size=0", "batch_size cannot be 0"),
        ("batch_size=2.5", "batch_size cannot be 2.5"),
        ("crop=352y480", "crop cannot be .*HxW or one number"),
        ("crop=[0, 480]", "crop cannot be .*at least 1 pixel"),
        ("crop=1x2x3", "crop cannot be"),
        ("crop=whole", "crop cannot be 'whole' .*batch_size must be 1"),
        ("crop=all", "crop cannot be 'all' .*; crop: .*whole: images as they are"),
        ("steps=0", "steps cannot be 0"),
        ("loss=avg", "loss cannot be 'avg' .*image_mean"),
        ("sampled_cells=0", "sampled_cells cannot be 0 .*above 0 to 1"),
        ("sampled_cells=1.5", "sampled_cells cannot be 1.5"),
        ("doubled_biases=yes", "doubled_biases cannot be True"),
        ("stage_lr=[]", "stage_lr cannot be"),
        ("stage_lr=[1, 0]", "stage_lr cannot be"),
        ("scale_jitter=[2, 1]", "scale_jitter cannot be .*must not exceed"),
        ("scale_jitter=2", "scale_jitter cannot be 2"),
        ("ema=1", "ema cannot be 1"),
        ("seed=-1", "seed cannot be -1"),
    ],
)
def test_wrong_overrides_are_named_in_one_line(override: str, message: str) -> None:
    with pytest.raises(FullconvError, match=message.replace("[", r"\[")) as caught:
        read_recipe("default", [override])
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"--set {override}: ")


def test_steps_stand_in_place_of_epochs() -> None:
    assert read_recipe("voc-fcn32s", ["steps=null", "epochs=2"]).epochs == 2
    with pytest.raises(FullconvError) as caught:
        read_recipe("voc-fcn32s", ["epochs=2"])
    assert "recipe voc-fcn32s: steps cannot be 100000 (epochs is set too" in str(caught.value)
    with pytest.raises(FullconvError, match=r"--set steps=9: .*epochs is set too.* must be null"):
        read_recipe("default", ["epochs=2", "steps=9"])


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("lr: 0.5\noptimizer: sgd\n")
    assert read_recipe(str(path), ["lr=0.25"]) == Recipe(lr=0.25, optimizer="sgd")
    path.write_text(yaml.safe_dump({"data": "x", "recipe": {"epochs": 7}}))
    assert read_recipe(str(path)).epochs == 7
    path.write_text("")
    assert read_recipe(str(path)) == Recipe()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- lr", "a recipe is a list of `key: value` lines"),
        ("lr: [", "not YAML"),
        ("lr: 1\nepochs: 3\nlr: 2", "key 'lr' stands twice, in lines 1 and 3"),
        (f"lr: {'[' * 3000}", "nested deeper"),
        (f"crop: &a [{'9, ' * 9000}]\nlr: [*a, *a]", "crop cannot be "),
        ("learning_rate: 1", "there is no setting 'learning_rate'"),
        ("lr: 0", "lr cannot be 0"),
        ("1: 2", "there is no setting '1'"),
    ],
)
def test_wrong_files(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(FullconvError, match=message) as caught:
        read_recipe(str(path))
    assert str(caught.value).startswith(f"{path}: ") and len(str(caught.value)) < 700


def test_unknown_recipe() -> None:
    with pytest.raises(FullconvError, match=r"recipe defalt: no such file.*did you mean default\?"):
        read_recipe("defalt")


def test_shipped_recipes_are_valid_and_say_their_command() -> None:
    package = Path(read_recipe.__code__.co_filename).parents[1]
    paths = {path.stem: path for path in package.glob("*/recipes/*.yaml")}
    assert set(paths) == set(shipped_recipes())
    for name, path in paths.items():
        read_recipe(name)
        header = path.read_text().split("\n\n")[0]
        assert "#   fullconv " in header
        assert "Expect" in header


@pytest.mark.parametrize("crop", ["33x65", "whole"])
def test_a_written_recipe_reads_back(tmp_path: Path, crop: str) -> None:
    settings = ["batch_size=1", "clip=null", "epochs=4", "stage_shares=[3, 1]", "stage_lr=[9, 1]"]
    recipe = read_recipe("default", [f"crop={crop}", *settings])
    path = tmp_path / "again.yaml"
    path.write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
    assert read_recipe(str(path)) == recipe


def test_every_setting_is_described() -> None:
    assert all(field.description for field in Recipe.model_fields.values())


# Schedules -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schedule", "done", "expected"),
    [
        ("one_cycle", 0.0, 0.04),
        ("one_cycle", 0.05, 0.52),  # half way up from 0.04
        ("one_cycle", 0.1, 1.0),
        ("one_cycle", 0.55, 0.5),
        ("one_cycle", 1.0, 0.0),
        ("poly", 0.1, 1.0),
        ("poly", 0.55, 0.5**0.9),
        ("poly", 1.0, 0.0),
        ("constant", 0.0, 0.04),
        ("constant", 0.7, 1.0),
    ],
)
def test_schedules(schedule: str, done: float, expected: float) -> None:
    assert learning_rate(schedule, done, 0.1) == pytest.approx(expected, abs=1e-12)


def test_no_warmup_and_nothing_but_warmup() -> None:
    assert learning_rate("poly", 0.0, 0.0) == 1.0
    assert learning_rate("one_cycle", 0.999, 1.0) == pytest.approx(1, rel=2e-3)


# Plans ---------------------------------------------------------------------------------------


def plan_for(
    images: int, *overrides: str, val: int = 1, magnify: int = 1, **options: float
) -> Plan:
    sizes = dict.fromkeys(map(str, range(images)), (360, 480))
    found = Fingerprint("train", sizes, {"color": 3})
    scale = Fraction(magnify)
    return make_plan(
        read_recipe("default", overrides), found, val, workers=0, scale=scale, **options
    )


def test_camvid_gets_the_epochs_that_serve_it() -> None:
    plan = plan_for(367, val=101)
    assert (plan.steps_per_epoch, plan.crop, plan.validate_every) == (45, (352, 480), 2)
    assert plan.epochs == pytest.approx(44, abs=1)


@pytest.mark.parametrize("images", [1, 2, 5, 8, 100, 5_000, 1_000_000])
def test_epochs_are_sensible_for_any_number_of_images(images: int) -> None:
    plan = plan_for(images)
    assert 3 <= plan.epochs <= 300
    assert plan.steps >= 100


def test_longer_trainings_for_more_images_but_fewer_epochs() -> None:
    few, many = default_epochs(367, 367), default_epochs(36_700, 36_700)
    assert few > many
    assert many * 36_700 > few * 367


def test_crops_that_show_a_quarter_are_twice_as_many() -> None:
    plain, magnified = plan_for(100), plan_for(100, magnify=2)
    share = math.prod(magnified.crop) / math.prod(plain.crop)
    assert 0.2 < share < 0.3
    assert magnified.epochs * math.sqrt(share) == pytest.approx(plain.epochs, rel=0.01)
    assert default_epochs(1, 1, 0.25) == 2 * default_epochs(1, 1) == 600
    assert plan_for(100, "crop=1000").epochs == plain.epochs
    assert plan_for(100, "epochs=5", magnify=2).epochs == 5


def test_a_part_of_an_epoch_and_a_share() -> None:
    assert plan_for(80, "epochs=2.5").steps == 25
    assert plan_for(80, "epochs=2.5", share=0.4).steps == 10
    assert plan_for(80, "epochs=0.001").steps == 1
    assert plan_for(80, "epochs=1", "accumulate=5").steps == 2


def test_steps_are_those_of_each_net() -> None:
    assert plan_for(80, "steps=7").steps == 7
    assert plan_for(80, "steps=7", share=0.4).steps == 7
    limited = plan_for(80, "steps=7", "minutes=60", seconds=3600.0)
    assert limited.fitted(Pace(0.001, 0.0)).steps == 7


def test_whole_images() -> None:
    settings = ("crop=whole", "batch_size=1", "accumulate=4")
    plan = plan_for(80, *settings, val=1000)
    assert (plan.crop, plan.steps_per_epoch) == ("whole", 20)
    same = plan_for(80, "crop=360x480", *settings[1:], val=1000)
    assert plan.validate_every == same.validate_every > 1
    assert Plan.from_dict(plan.to_dict()) == plan


def test_validation_costs_at_most_a_fifth() -> None:
    for train, val in ((10, 1000), (100, 100), (1000, 10)):
        plan = plan_for(train, "epochs=3", val=val)
        forward = val * 360 * 480 / 3
        trained = plan.validate_every * plan.steps_per_epoch * 8 * 352 * 480
        assert forward <= 0.2 * trained
        assert plan.validate_every == 1 or forward > 0.2 * trained * (1 - 1 / plan.validate_every)


@pytest.mark.parametrize(("epochs", "every"), [(3, 1), (20, 1), (39, 1), (40, 2), (300, 15)])
def test_of_a_long_training_there_are_about_20_validations(epochs: int, every: int) -> None:
    assert plan_for(1000, f"epochs={epochs}").validate_every == every
    assert plan_for(1000, f"epochs={epochs}", "validate_every=1").validate_every == 1


def test_when_epochs_end_and_validations_come() -> None:
    plan = Plan(steps=23, steps_per_epoch=5, validate_every=2, crop=(8, 8))
    steps = range(1, 24)
    assert [step for step in steps if plan.ends_epoch(step)] == [5, 10, 15, 20, 23]
    assert [step for step in steps if plan.validates(step)] == [10, 20, 23]


def test_a_plan_fitted_under_way_completes_its_schedule_without_a_leap() -> None:
    recipe = Recipe(lr=1.0, warmup=0.0)
    plan = Plan(steps=100, steps_per_epoch=10, validate_every=1, crop=(8, 8), seconds=100 / SLACK)
    late = plan.fitted(Pace(1.0, 0.0), step=40, spent=70.0)
    assert late.steps == 70
    assert late.learning_rate(recipe, 40) == plan.learning_rate(recipe, 40)
    assert late.done(55) == pytest.approx(0.7)
    assert late.learning_rate(recipe, 69) == pytest.approx((1 + math.cos(math.pi * 0.98)) / 2)
    early = late.fitted(Pace(0.1, 0.0), step=50, spent=75.0)
    assert early.steps == pytest.approx(50 + 250, abs=1)
    assert early.learning_rate(recipe, 50) == pytest.approx(late.learning_rate(recipe, 50))
    assert early.done(early.steps) == pytest.approx(1)
    over = early.fitted(Pace(0.1, 0.0), step=60, spent=101.0)
    assert over.steps == 61  # the step that is due is always made


def test_epochs_bound_a_plan_of_limited_time() -> None:
    plan = plan_for(80, "epochs=2", "minutes=60", seconds=3600.0)
    assert plan.fitted(Pace(0.001, 0.0)).steps == 20
    assert plan.fitted(Pace(1000.0, 0.0)).steps == 3
    assert plan_for(80, "minutes=60", seconds=3600.0).fitted(Pace(0.1, 0.0)).steps > 30_000
    assert plan_for(80, "epochs=2").fitted(Pace(1000.0, 0.0)).steps == 20


def test_a_plan_survives_plain_values() -> None:
    plan = Plan(9, 3, 1, (8, 16), "bf16", 2, 60.0, None, (3, 0.25))
    values = yaml.safe_load(
        yaml.safe_dump(
            {k: list(v) if isinstance(v, tuple) else v for k, v in plan.to_dict().items()}
        )
    )
    assert Plan.from_dict(values) == plan
