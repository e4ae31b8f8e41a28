"""jobs/cli.py: exit codes, the last line, result.json. A job here needs no Ray; tests/cluster has those that do."""

import json
import os
import signal

import pytest

from jobs.cli import Variant, find_user_error, parse_arguments, report_failure, run_job, run_stage
from jobs.run_folder import RunFolder
from robust.config_file import parse
from robust.errors import ConfigError, UserError


@pytest.fixture(autouse=True)
def signal_handlers_restored():
    before = {name: signal.getsignal(name) for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield
    for name, handler in before.items():
        signal.signal(name, handler)


@pytest.fixture
def run(tmp_path, capfd):
    """Runs a job with a config file of its own: run(main, *arguments) -> (exit code, stdout, stderr)."""
    (tmp_path / "config.yaml").write_text(
        f"run: {{name: here}}\nstorage: {{uri: {tmp_path / 'storage'}}}\ncluster: {{address: local}}\n"
        "profiles: {small: {train: {batch_size: 4}}}\n")

    def run(main, *arguments):
        code = run_job("train", main, needs_ray=False, argv=["--config", str(tmp_path / "config.yaml"), *arguments])
        return code, *capfd.readouterr()

    return run


def test_success_writes_result_json_and_says_the_summary_last(run, tmp_path):
    code, out, err = run(lambda config, storage: {"auc": 0.97, "summary": "AUC 0.97"})
    assert (code, out, err) == (0, "train: AUC 0.97\n", "")
    result = json.loads((tmp_path / "storage/here/train/result.json").read_text())
    assert result["auc"] == 0.97 and result["status"] == "done" and result["seconds"] >= 0
    assert (tmp_path / "storage/here/config.yaml").exists()


def test_figures_that_cannot_be_believed_are_3_with_their_result_written(run, tmp_path):
    result = {"credible": False, "summary": "NOT CREDIBLE: large_epsilon (defended)"}
    assert run(lambda config, storage: result) == (3, "", "train: NOT CREDIBLE: large_epsilon (defended)\n")
    assert json.loads((tmp_path / "storage/here/train/result.json").read_text())["credible"] is False
    for credible in (True, None):
        assert run(lambda config, storage: {"credible": credible})[0] == 0


def test_overrides_and_profiles_reach_the_job(run):
    seen = []
    main = lambda config, storage: seen.append((config.train.batch_size, config.run.seed)) or {}
    assert run(main, "run.seed=5", "--profile", "small", "run.name=a")[0] == 0
    assert run(main, "train.batch_size=8", "run.name=b", "--profile", "small")[0] == 0
    assert seen == [(4, 5), (8, 24)]


def test_a_bad_config_is_2_and_names_the_key(run):
    code, out, err = run(lambda config, storage: {}, "train.batch=3")
    assert code == 2 and out == "" and err.startswith("train: error: train.batch: unknown key")
    assert run(lambda config, storage: {}, "train.batch_size=1")[0] == 2


def test_a_flag_can_make_a_job_do_something_else_that_writes_nothing(tmp_path, capfd):
    settings = f"run: {{name: here}}\nstorage: {{uri: {tmp_path / 'storage'}}}\ncluster: {{address: local}}\n"
    (tmp_path / "config.yaml").write_text(settings)
    variants = {"check": Variant(lambda config, storage: {"summary": "checked"}, "look only", writes=False),
                "clean": Variant(lambda config, storage: {"summary": "cleaned"}, "more")}

    def run(*arguments):
        return run_job("train", lambda config, storage: {"summary": "trained"}, needs_ray=False, variants=variants,
                       argv=["--config", str(tmp_path / "config.yaml"), *arguments])

    assert run("--check") == 0 and capfd.readouterr().out == "train: checked\n"
    assert not (tmp_path / "storage" / "here").exists()
    assert run("train.batch_size=8", "--clean") == 0 and capfd.readouterr().out == "train: cleaned\n"
    assert json.loads((tmp_path / "storage/here/train/result.json").read_text())["summary"] == "cleaned"
    with pytest.raises(SystemExit) as refused:
        run("--check", "--clean")
    assert refused.value.code == 2 and "give one of --check, --clean" in capfd.readouterr().err


def test_another_config_under_the_same_name_is_2(run):
    assert run(lambda config, storage: {})[0] == 0
    code, _, err = run(lambda config, storage: {}, "train.batch_size=16")
    assert code == 2 and "train.batch_size: 32 -> 16" in err


def test_settings_that_are_refused_first_take_no_run_name(tmp_path, capfd):
    settings = f"run: {{name: here}}\nstorage: {{uri: {tmp_path / 'storage'}}}\ncluster: {{address: local}}\n"
    (tmp_path / "config.yaml").write_text(settings)

    def look(config, storage):
        if config.train.batch_size > 8:
            raise UserError("lower train.batch_size")

    def run(*more):
        argv = ["--config", str(tmp_path / "config.yaml"), *more]
        return run_job("train", lambda config, storage: {}, needs_ray=False, first=look, argv=argv)

    assert run() == 1 and capfd.readouterr().err == "train: error: lower train.batch_size\n"
    assert not (tmp_path / "storage/here").exists()
    assert run("train.batch_size=8") == 0  # what the error asked for


def test_a_user_error_is_1_in_one_line_and_writes_no_result(run, tmp_path):
    def main(config, storage):
        raise UserError("videos/a.mp4 is empty; fetch it again.")

    code, out, err = run(main)
    assert (code, out, err) == (1, "", "train: error: videos/a.mp4 is empty; fetch it again.\n")
    assert not (tmp_path / "storage/here/train/result.json").exists()
    code, _, err = run(main, "--traceback")
    assert code == 1 and "Traceback" in err and err.endswith("fetch it again.\n")


def test_a_bug_is_1_with_its_traceback(run):
    code, _, err = run(lambda config, storage: {}["nothing"])
    assert code == 1 and "Traceback" in err and err.splitlines()[-1] == "train: error: unexpected KeyError: 'nothing'"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_the_job_cleanly(run, number):
    unwound = []

    def main(config, storage):
        try:
            os.kill(os.getpid(), number)
            signal.pause()
        finally:
            unwound.append(True)

    code, _, err = run(main)
    assert code == 1 and unwound and "stopped" in err.splitlines()[-1] and "Traceback" not in err


def test_help_lists_every_key_with_default_and_meaning(capsys):
    with pytest.raises(SystemExit) as left:
        parse_arguments("train", ["--help"])
    text = capsys.readouterr().out
    assert left.value.code == 0
    assert 'run.name ("run") unique name of the run' in text and "train.batch_size (32)" in text
    with pytest.raises(SystemExit) as left:
        parse_arguments("train", ["--no-such-option"])
    assert left.value.code == 2


def test_user_errors_are_found_inside_rays():
    import ray
    import ray.train
    from ray.exceptions import RayTaskError

    told = UserError("the disk is full")
    task = RayTaskError("f", "Traceback ...", told).as_instanceof_cause()
    assert isinstance(task, UserError) and find_user_error(task) is told
    assert find_user_error(ray.train.WorkerGroupError("failed", {1: task})) is told
    assert find_user_error(ray.train.ControllerError(told)) is told
    outer = RuntimeError("wrapped")
    outer.__cause__ = task
    assert find_user_error(outer) is told
    assert find_user_error(RuntimeError("a bug")) is None


def test_the_outermost_user_error_speaks(capsys):
    outer = ConfigError("the file is of another version")
    outer.__cause__ = UserError("inner")
    assert report_failure("tune", outer) == 2
    assert capsys.readouterr().err == "tune: error: the file is of another version\n"


def test_run_stage_marks_the_stage_as_done(local_storage):
    config = parse({"run": {"name": "all"}})
    assert run_stage("extract", lambda config, storage: {"videos": 3}, config, local_storage) == {"videos": 3}
    assert RunFolder(local_storage, config).is_done("extract")
