"""The harness's three questions against sums over whole texts; the harness itself where installed."""

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tests.pretrained.small import text_model
from tests.pretrained.test_evaluations import whole

from rankbound.errors import InputError
from rankbound.pretrained import harness
from rankbound.pretrained.harness import HarnessModel, harness_tasks

QUESTIONS = [("the cat sat on", " the mat"), ("the dogs", " bark"), ("rain", " falls"), ("and", " so on")]


def ask(*args):
    return SimpleNamespace(args=args)


@pytest.mark.parametrize("mixture", [False, True])
def test_continuations_and_whole_texts(mixture):
    own = text_model(mixture)
    model = HarnessModel(own)
    answers = model.loglikelihood([ask(*q) for q in QUESTIONS])
    for (context, continuation), (total, greedy) in zip(QUESTIONS, answers, strict=True):
        assert total == pytest.approx(whole(own, context + continuation) - whole(own, context), abs=1e-3)
        assert isinstance(greedy, bool)
    texts = ["the cat sat on the mat", "rain"]
    rolled = model.loglikelihood_rolling([ask(text) for text in texts])
    assert rolled == pytest.approx([whole(own, text) for text in texts], abs=1e-3)
    ((total, _),) = model.loglikelihood([ask("", "rain falls")])
    assert total == pytest.approx(whole(own, "rain falls"), abs=1e-3)


def test_rolling_windows_are_the_harnesss():
    """Tokens 0 to 9 and a context of 4: three windows, the last full and scoring two tokens."""
    own = text_model(context=4)
    ids = [0, *own.encode(["the cat sat on the mat and the dogs bark at them"])[0]][:11]
    assert len(ids) == 11
    windows = [(ids[0:4], ids[1:5]), (ids[4:8], ids[5:9]), (ids[6:10], ids[9:11])]
    total = 0.0
    with torch.no_grad():
        for inputs, targets in windows:
            log_prob_TV = own.model(torch.tensor([inputs]))[0, -len(targets) :]
            total += float(log_prob_TV.gather(1, torch.tensor(targets)[:, None]).sum())
    piece = own.decode(ids[1:])
    assert own.encode([piece])[0] == ids[1:]
    assert HarnessModel(own).loglikelihood_rolling([ask(piece)])[0] == pytest.approx(total, abs=1e-3)


def test_a_generated_answer_stops_before_its_stop():
    own = text_model()
    model = HarnessModel(own)
    (free,) = model.generate_until([ask("the cat", {"max_gen_toks": 12})])
    stop = free[4:6]
    (cut,) = model.generate_until([ask("the cat", {"until": [stop], "max_gen_toks": 12})])
    assert cut == free[: free.index(stop)]
    drawn = {"do_sample": True, "temperature": 2.0, "max_gen_toks": 12}
    assert model.generate_until([ask("the cat", drawn)])[0] != free


def test_without_the_harness_the_extra_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(InputError, match=r"rankbound\[lm_eval\]"):
        harness_tasks(text_model(), ["arc_easy"])
    with pytest.raises(InputError, match="is no folder"):
        harness_tasks(text_model(), ["arc_easy"], task_files=tmp_path / "none")


def test_the_harnesss_results_become_ours():
    results = {
        "results": {"arc": {"alias": "arc", "acc,none": 0.25, "acc_stderr,none": 0.1, "f1,first": 0.5}},
        "n-samples": {"arc": {"original": 9, "effective": 4}},
    }
    first, second = harness._figures(results)
    assert tuple(first) == ("arc", "acc", 0.25, 0.1, 4)
    assert second.metric == "f1 (first)"
    assert np.isnan(second.stderr)


TASK = """task: small_choice
dataset_path: json
dataset_kwargs: {data_files: {test: DATA}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{answer}}"
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
metadata: {version: 1.0}
"""


def test_a_task_file_on_the_disk_runs_through_the_harness(tmp_path, monkeypatch):
    manager = pytest.importorskip("lm_eval.tasks").TaskManager
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    own = text_model()
    rows, right = [], []
    for question, continuation in QUESTIONS:
        choices = [continuation.strip(), "on the", "cat dogs"]
        rows.append({"question": question, "choices": choices, "answer": 0})
        totals = [whole(own, f"{question} {choice}") for choice in choices]
        right.append(float(np.argmax(totals) == 0))
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    (tasks / "small.yaml").write_text(TASK.replace("DATA", str(data)))
    (figure,) = harness_tasks(own, ["small_choice"], tasks)
    assert (figure.task, figure.metric, figure.n) == ("small_choice", "acc", 4)
    assert figure.value == pytest.approx(np.mean(right))
    assert figure.stderr == pytest.approx(np.std(right, ddof=1) / 2)
    monkeypatch.setattr("lm_eval.tasks.TaskManager", lambda **own: manager(own["include_path"], False))
    with pytest.raises(InputError, match="knows no task nonsense"):
        harness_tasks(own, ["nonsense"], tasks)
