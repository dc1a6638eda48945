import pytest
import yaml
from scipy import stats

from rankbound import load_run
from rankbound.report.findings import best, budgets, cautions, seed_intervals, short, summary
from rankbound.report.table import comparison
from rankbound.runs import CONFIG

MIXTURE = "MixtureOfSoftmaxes(components=4)"


def frame_of(*paths):
    return comparison([load_run(path) for path in paths])


def test_lowest_loss_of_each_width_is_best(study):
    frame = comparison(study)
    for _, group in frame.groupby("hidden_size"):
        chosen = group[best(frame)[group.index]]
        assert chosen["valid_loss"].tolist() == [group["valid_loss"].min()]


def test_unlike_runs_are_not_ranked(make_run):
    frame = frame_of(
        make_run("short", total_steps=200),
        make_run("long", MIXTURE, total_steps=300),
        make_run("other", "Factorized(rank=16)", sha256="ab" * 32, vocab_size=1024),
        make_run("killed", MIXTURE, stop_at=100),
    )
    assert not best(frame).any()
    assert "none is called better" in summary(frame)
    text = "\n".join(cautions(frame))
    assert "compare only in bits per byte" in text
    assert "different numbers of tokens (205k to 614k)" in text
    assert "killed (step 100 of 300, not finished)" in text


def test_a_fair_single_seed_comparison_warns_of_luck_only_where_it_must(study):
    frame = comparison(study)
    text = "\n".join(cautions(frame))
    assert "one seed cannot separate heads from luck" in text
    assert "learning rate 0.003: it was not tuned for each head" in text
    assert "tokens" not in text
    assert "vocabular" not in text
    assert "not finished" not in text


def test_summary_names_the_lowest_loss_and_its_distance_to_the_unigram_entropy(study):
    frame = comparison(study)
    for width, group in frame.groupby("hidden_size"):
        lowest, next_lowest = group.sort_values("valid_loss").iloc[:2].itertuples()
        below = lowest.unigram_entropy - lowest.valid_loss
        expected = (
            f"At width {width} the lowest validation loss is that of {lowest.head}: "
            f"{lowest.valid_loss:.3f} nats per token, {below:.2f} below the unigram entropy (6.52)"
            f"; next is {next_lowest.head}, {next_lowest.valid_loss - lowest.valid_loss:.3f} higher"
        )
        assert expected in summary(frame)
    assert summary(frame).count("may be luck") == 2


def test_interval_over_seeds_is_scipys(make_run):
    paths = [make_run(f"{head[:3]}{s}", head, seed=s) for head in ("Linear", MIXTURE) for s in (1, 2, 3)]
    frame = frame_of(*paths)
    means = seed_intervals(frame).set_index("head")
    for head, group in frame.groupby("head"):
        low, high = stats.t.interval(0.95, 2, group["valid_loss"].mean(), stats.sem(group["valid_loss"]))
        row = means.loc[head]
        assert row["seeds"] == 3
        assert row["valid_loss"] == pytest.approx((low + high) / 2)
        assert row["half_width"] == pytest.approx((high - low) / 2)
    assert "one seed cannot" not in "\n".join(cautions(frame))


def test_gap_is_paired_by_seed(make_run):
    seeds = (1, 2, 3, 4)
    paths = [make_run(f"{head[:3]}{s}", head, seed=s) for head in ("Linear", MIXTURE) for s in seeds]
    frame = frame_of(*paths)
    by_head = frame.pivot_table(index="seed", columns="head", values="valid_loss")
    gaps = by_head["Linear"] - by_head[MIXTURE]
    low, high = stats.t.interval(0.95, 3, gaps.mean(), stats.sem(gaps))
    assert low > 0, "the synthetic heads are meant to differ"
    text = f"{gaps.mean():.3f} higher (paired over 4 seeds, 95 % t interval {low:.3f} to {high:.3f})"
    assert text in summary(frame)


def test_heads_that_do_not_differ_are_said_not_to(make_run):
    paths = [make_run(f"{head}{s}", head, seed=s) for head in ("Linear", "Twin__") for s in (1, 2)]
    assert "the seeds do not tell the two apart" in summary(frame_of(*paths))


def test_the_same_seed_twice_is_no_second_seed(make_run):
    frame = frame_of(make_run("once", seed=1), make_run("again", seed=1))
    assert seed_intervals(frame).empty
    assert "one seed cannot separate" in "\n".join(cautions(frame))


def test_budgets_within_one_percent_are_matched(study):
    frame = comparison(study[:2])
    frame["parameters_total"] = [1000, 1009]
    assert budgets(frame) == ""
    frame["parameters_total"] = [1000, 1012]
    assert "1.01 (width 32) times" in budgets(frame)


def test_matched_budgets_are_told_with_the_size_that_was_solved(make_run):
    paths = [make_run("plain"), make_run("equal", "Twin"), make_run("mixture", MIXTURE)]
    solved = {"budget": "flops", "to": "Linear", "by": "intermediate_size", "value": 119}
    as_given = {"budget": "parameters", "to": "Linear", "by": None, "value": None}
    for path, matched in zip(paths[1:], (as_given, solved), strict=True):
        config = yaml.safe_load((path / CONFIG).read_text())
        config["derived"]["matched"] = matched | {"total": 1000, "reference": 1001}
        (path / CONFIG).write_text(yaml.safe_dump(config))
    text = "\n".join(cautions(frame_of(*paths)))
    assert "Budgets matched within 1 %: " in text
    assert f"{MIXTURE} at width 32 to Linear in forward FLOPs a token, by intermediate_size = 119" in text
    assert "Twin at width 32 to Linear in parameters, as given" in text
    assert "Parameter budgets are not matched" in text, "FLOPs alone were"
    assert "Budgets matched" not in budgets(frame_of(paths[0]))


def test_a_run_above_the_unigram_entropy_is_named(make_run):
    text = "\n".join(cautions(frame_of(make_run("young", stop_at=4), make_run("old"))))
    assert "1 run did not get below the unigram entropy" in text
    assert "alone reach: young." in text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (7, "7"),
        (999, "999"),
        (1000, "1.00k"),
        (131_072, "131k"),
        (999_499, "999k"),
        (999_600, "1.00M"),
        (1_376_256, "1.38M"),
        (6.9e9, "6.90G"),
        (2e12, "2.00T"),
    ],
)
def test_short_keeps_three_digits(count, text):
    assert short(count) == text
