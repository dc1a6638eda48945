"""Wrong input: one line that names it and the mend, exit status 2, nothing written."""

import pytest

from rankbound.cli import main
from rankbound.parser import call

YAML = {
    "key.yaml": "model:\n  hiden_size: 3\n",
    "option.yaml": "model: {head: {class_path: MixtureOfSoftmaxes, init_args: {componens: 3}}}\n",
    "section.yaml": "modl:\n  x: 3\n",
    "syntax.yaml": "model: [\n",
    "head.yaml": "model:\n  head: Linar\n",
    "value.yaml": "model:\n  hidden_size: abc\n",
}

CASES = [
    ("fti", "there is no command 'fti'; did you mean fit?"),
    ("fit --model.hed Linear", "there is no setting model.hed; did you mean model.head?"),
    (
        "fit --model.head MixtureOfSoftmaxs",
        "there is no MixtureOfSoftmaxs; did you mean MixtureOfSoftmaxes?",
    ),
    (
        "fit --model.head MixtureOfSoftmaxes --model.head.component 4",
        "MixtureOfSoftmaxes has no setting component; did you mean components?",
    ),
    ("fit --model.head my.module.Head", "my.module.Head cannot be imported: No module named 'my'"),
    ("fit --trainer.max_step 4", "there is no setting trainer.max_step"),
    ("fit --trainer.max_steps 4", '"trainer.max_steps" must be given via "model.total_steps"'),
    ("fit --trainer.precision bf17", "trainer.precision must be one of 64, 32"),
    ("fit --model.hidden_size abc", "model.hidden_size must be a whole number, not 'abc'"),
    ("fit --model.head.bias maybe", "model.head.bias must be true or false, not 'maybe'"),
    ("fit --model.schedule Cosin", "there is no Cosin; did you mean Cosine?"),
    ("fit --model.init pythi", "model.init must be one of pythia, gpt2, not 'pythi'"),
    (
        "fit --recorder.measurements+=WeigtRanks",
        "there is no WeigtRanks; did you mean WeightRanks? Known are",
    ),
    ("fit --recorder.when.evry 3", "no setting recorder.when.evry; did you mean recorder.when.every?"),
    ("fit --config nope.yaml", "File does not exist"),
    ("fit --config key.yaml", "there is no setting model.hiden_size; did you mean model.hidden_size?"),
    ("fit --config option.yaml", "has no setting componens; did you mean components?"),
    ("fit --config section.yaml", "there is no setting modl.x; did you mean model?"),
    ("fit --config syntax.yaml", "Problems parsing config"),
    ("fit --config head.yaml", "there is no Linar; did you mean Linear?"),
    ("fit --config value.yaml", "model.hidden_size must be a whole number, not 'abc'"),
    ("fit --data.corpus nowhere", "nowhere is not a prepared corpus"),
    ("fit --data.corpus CORPUS --model.hidden_size 30", "30 is not divisible by num_attention_heads 4"),
    (
        "fit --data.corpus CORPUS --model.head Factorized --model.head.rank 0",
        "rank is 0; it must be at least 1",
    ),
    ("fit --data.corpus CORPUS --model.vocab_size 99", "model.vocab_size is 99"),
    (
        "fit --data.corpus CORPUS --model.tie_word_embeddings true --model.head Factorized",
        "Factorized has no (vocab_size, hidden_size) matrix to tie",
    ),
    ("fit --data.corpus CORPUS --data.window 99999 --model.max_position_embeddings 99999", "needs 100000"),
    ("fit --data.corpus CORPUS --ckpt_path last", "there is no checkpoint"),
    ("validate --data.corpus CORPUS --ckpt_path nope.ckpt", "there is no checkpoint nope.ckpt"),
    ("fit --data.corpus CORPUS --data.window 4000", "longer than model.max_position_embeddings = 2048"),
    ("fit --data.corpus CORPUS --trainer.fast_dev_run true", "trainer.fast_dev_run is True"),
    ("fit --data.corpus CORPUS --trainer.gradient_clip_val 1", "set model.gradient_clip"),
    ("fit --data.corpus CORPUS --trainer.precision 16-mixed", "use 32-true, bf16-mixed, 64-true"),
    ("fit --data.corpus CORPUS --trainer.strategy fsdp", "trainer.strategy fsdp is not supported"),
    ("fit --data.corpus CORPUS --trainer.devices 0", "devices='0'"),
    ("fit --data.corpus CORPUS --run_dir key.yaml", "key.yaml"),
    ("fit --data.corpus CORPUS --model.gradient_clip -1", "gradient_clip is -1.0"),
    ("fit --data.corpus CORPUS --model.optimizer.beta2 1", "beta2 1.0"),
    ("fit --data.corpus CORPUS --model.intermediate_size 0", "intermediate_size is 0"),
    ("validate --data.corpus CORPUS", "validate needs a checkpoint"),
    ("prepare --corpsu x", "there is no setting corpsu; did you mean corpus?"),
    ("prepare --vocab-size x", "vocab_size must be a whole number, not 'x'"),
    ("prepare --errors foo", "errors must be one of strict, replace, skip, not 'foo'"),
    ("prepare --corpus nowhere.txt", "nowhere.txt"),
    ("prepare --overwrite --corpus nowhere.txt", "nowhere.txt"),
    ("prepare --overwrite=maybe", "overwrite must be true or false, not 'maybe'"),
    ("generate key.yaml Once upon", "'Once upon' is one too many: settings go by name"),
    ("generate nowhere.ckpt", "nowhere.ckpt does not exist"),
    ("language", "name a language first; known are KnownRank, Ngram, SpamLang"),
    ("language KnownRnak", "there is no language 'KnownRnak'; did you mean KnownRank?"),
    ("language KnownRank --vocab-sise 9", "there is no setting vocab_sise; did you mean vocab_size?"),
    ("language KnownRank --rank 1", "rank is 1; it must be from 2"),
    ("language SpamLang --output CORPUS", "holds another corpus"),
    ("language Ngram --corpus nowhere", "nowhere is not a prepared corpus"),
    ("language SpamLang --vocab-size 9 --output out --floor-ranks [0]", "rank is 0"),
    ("compare", "required: runs"),
    ("compare nowhere", "nowhere is not a run folder"),
    ("demo --minutes 0", "minutes is 0"),
]


@pytest.mark.parametrize(("line", "message"), CASES, ids=[case[0] for case in CASES])
def test_wrong_input(line, message, corpus, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name, text in YAML.items():
        (tmp_path / name).write_text(text)
    argv = [str(corpus) if word == "CORPUS" else word for word in line.split()]
    monkeypatch.setattr("sys.argv", ["rankbound", *argv])
    with pytest.raises(SystemExit) as stop:
        main()
    err = capsys.readouterr().err.strip()
    assert stop.value.code == 2
    assert err.startswith("rankbound: error: ")
    assert len(err.splitlines()) == 1, err
    assert message in err
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(YAML)


def _told(path: str, *, loud: bool = False, count: int = 1) -> tuple[str, bool, int]:
    return path, loud, count


@pytest.mark.parametrize(
    ("args", "loud"),
    [
        ("a", False),
        ("a --loud", True),
        ("--loud a", True),
        ("a --loud --count 2", True),
        ("a --loud false", False),
        ("a --loud=true", True),
        ("--loud True a", True),
    ],
)
def test_a_switch_may_stand_alone(args, loud):
    found = call(_told, "told", None, args.split(), one="path")
    assert found == ("a", loud, 2 if "count" in args else 1)


def test_overview_names_every_command(capsys):
    main(["--help"])
    out = capsys.readouterr().out
    for command in ("demo", "prepare", "language", "fit", "validate", "compare"):
        assert f"\n  {command} " in out
