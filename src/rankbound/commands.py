"""The commands: one short function each, its docstring the line that `rankbound --help` has of it.

What a command needs is imported when it is called, so that `rankbound prepare` does not wait for Lightning.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from rankbound.errors import InputError, nearest


def demo(args: list[str]) -> None:
    """the whole story on real text in minutes: prepare, train, compare, report"""
    from rankbound.demo import demo

    _call(demo, "demo", args)


def prepare(args: list[str]) -> None:
    """text to a corpus folder: tokenizer, packed tokens, data card"""
    from rankbound.corpora import prepare

    print(f"The corpus is in {_call(prepare, 'prepare', args).path}")


def language(args: list[str]) -> None:
    """a language with a known answer, as a corpus folder: entropy, floors, text made as it is read"""
    from rankbound.corpora.generate import generate
    from rankbound.corpora.languages import all_languages, language_class
    from rankbound.parser import Parser

    known = ", ".join(all_languages())
    if args[:1] in (["-h"], ["--help"]):
        print(f"usage: rankbound language NAME [--help] [...]\n\nNAME is one of {known}")
        return
    if not args or args[0].startswith("-"):
        raise InputError(f"name a language first; known are {known}")
    made = language_class(args[0])
    parser = Parser(prog=f"rankbound language {args[0]}", description=COMMANDS["language"].__doc__)
    own = set(parser.add_class_arguments(made, as_group=False))
    parser.add_function_arguments(generate, skip={"language"}, as_group=False)
    settings = parser.instantiate(parser.parse_args(args[1:])).as_dict()
    chosen = {name: value for name, value in settings.items() if name in own}
    written = generate(made(**chosen), **{k: v for k, v in settings.items() if k not in own})
    print(f"Train on it with: rankbound fit --data.corpus {written.path}")


def fit(args: list[str]) -> None:
    """train one model, or resume it with --ckpt_path last"""
    _train("fit", args)


def validate(args: list[str]) -> None:
    """loss of a checkpoint on the valid split"""
    _train("validate", args)


def compare(args: list[str]) -> None:
    """table and report of given runs"""
    from rankbound.report.compare import compare

    _call(compare, "compare", args, several="runs")


def study(args: list[str]) -> None:
    """a grid of runs: run it, see how far it is, gather it into a report"""
    from rankbound.study.command import run, status

    commands = {"run": run, "status": status, "report": _study_report}
    if not args or args[0] in ("-h", "--help"):
        print(f"usage: rankbound study {'|'.join(commands)} FILE [--help] [...]\n\n{study.__doc__}")
    elif args[0] not in commands:
        raise InputError(f"study does {', '.join(commands)}, not {args[0]!r}{nearest(args[0], commands)}")
    else:
        _call(commands[args[0]], "study", args[1:], one="file", what=f"study {args[0]}")


def _study_report(file: Path, output: Path = Path("checkpoints")) -> None:
    """Gather a study's tables and write its report.

    Args:
        file: A study file or a study's folder.
        output: Folder of studies.
    """
    from rankbound.report.study import study_report
    from rankbound.studies import REPORT
    from rankbound.study.command import gathered

    found = gathered(file, output)
    study_report(found, found.path / REPORT)
    print(f"Report: {found.path / REPORT}")


def diagnose(args: list[str]) -> None:
    """is a model rank-bound, and by how many nats; with --suite, over its checkpoints"""
    if any(arg.partition("=")[0] == "--suite" for arg in args):
        from rankbound.pretrained.suite import diagnose_suite
        from rankbound.report.diagnose_suite import suite_report

        suite_report(*_call(diagnose_suite, "diagnose", args))
        return
    from rankbound.pretrained.diagnose import diagnose
    from rankbound.report.diagnose import diagnosis_report

    diagnosis_report(*_call(diagnose, "diagnose", args, one="model"))


def evaluate(args: list[str]) -> None:
    """minimal pairs, last words, bits per byte of any text, the harness's tasks"""
    from rankbound.pretrained.evaluate import evaluate
    from rankbound.training.memory import keep_freed_memory

    keep_freed_memory()
    _call(evaluate, "evaluate", args, one="model")


def generate(args: list[str]) -> None:
    """text from a model, or from what one model has over another"""
    from rankbound.pretrained.generate import generate

    _call(generate, "generate", args, one="model")


def export(args: list[str]) -> None:
    """a model as a folder that transformers reads, or with its head beside"""
    print(f"The model is in {_call(_export, 'export', args, one='model')}")


def _export(model: str, output: Path, revision: str | None = None) -> Path:
    """Write a model as a folder.

    Args:
        model: A run folder, an exported or transformers folder, a llama2.c file, or a Hugging Face id.
        output: The new folder.
        revision: Of a Hugging Face id: branch, tag or commit.
    """
    from rankbound.pretrained.export import export

    return export(model, output, revision)


def trajectories(args: list[str]) -> None:
    """what each token's probability does over the checkpoints of runs or suites"""
    _call(_trajectories, "trajectories", args, several="runs")


def _trajectories(
    runs: list[Path],
    output: Path = Path("checkpoints/trajectories.html"),
    revisions: tuple[str, ...] = (),
    text: str | None = None,
    max_tokens: int = 16_384,
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto",
) -> None:
    """Score every checkpoint and write tables and figures.

    Args:
        runs: Run folders that kept checkpoints; or suites, all of one tokenizer: folders of checkpoint
            folders whose names end in the step, or, with revisions, Hugging Face ids.
        output: The HTML file to write.
        revisions: Of each id, such as [step1000,step2000], in order.
        text: What suites are scored on, as rankbound prepare reads it.
        max_tokens: Score no more than so many.
        device: Where to compute; auto takes a GPU where there is one.
    """
    from rankbound.pretrained.trajectories import measure
    from rankbound.report.trajectories import write_page

    command = shlex.join(["rankbound", *sys.argv[1:]])
    write_page(measure(runs, revisions, text, max_tokens, device), command, output)


def heads(args: list[str]) -> None:
    """every head: formula, rank bounds beside measured ranks, cost"""
    from rankbound.report.heads import heads

    _call(heads, "heads", args)


def dimension(args: list[str]) -> None:
    """how narrow a linear map can be and still write a corpus's next-token distributions"""
    from rankbound.report.dimension import dimension

    _call(dimension, "dimension", args, several="corpora")


def _call(
    function: Callable[..., Any],
    name: str,
    args: list[str],
    several: str | None = None,
    one: str | None = None,
    what: str | None = None,
) -> Any:
    """`parser.call` for a command; `what` where its help has more words than its name."""
    from rankbound.parser import call

    return call(function, f"rankbound {what or name}", COMMANDS[name].__doc__, args, several, one)


def _train(command: str, args: list[str]) -> None:
    import logging
    import warnings

    from rankbound.training.command import TrainingCLI

    for name in ("lightning.pytorch", "lightning.fabric"):  # their greetings, not their warnings
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="lightning.*", category=FutureWarning)
    # Lightning cannot know that our sampler starts at the step it resumes from.
    warnings.filterwarnings("ignore", message=".*resuming from a checkpoint that ended before the epoch.*")
    # LightningCLI and the processes that its strategies launch both read the command line itself.
    sys.argv[1:] = [command, *args]
    TrainingCLI(_start_from)


def _start_from(*model: Any) -> None:
    """`--init_weights`; what reads models from elsewhere is imported where one is named."""
    from rankbound.pretrained.initial import start_from

    start_from(*model)


COMMANDS: dict[str, Callable[[list[str]], None]] = {
    command.__name__: command
    for command in (
        *(demo, prepare, language, fit, validate, study, compare, diagnose, evaluate, generate, export),
        *(trajectories, heads, dimension),
    )
}
