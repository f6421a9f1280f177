"""The command: help, codes, JSON, silence where nobody watches, and which `src` was found."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_pipeline import choices, cli, config  # noqa: F401 (choices is a fixture)

COMMAND = [sys.executable, "-m", "confprobe"]


@pytest.fixture
def settings(tmp_path, model_folder, choices):  # noqa: F811
    path = tmp_path / "c.yaml"
    content = config(tmp_path, model_folder, choices)
    content["data"]["limit"] = 24  # too few for a probe, which nothing here is about
    path.write_text(json.dumps(content))
    return path


def test_json_is_all_a_script_gets(settings, tmp_path, monkeypatch, capsys):
    assert cli(monkeypatch, "run", settings, "--dry-run", "--json") == 0
    assert json.loads(capsys.readouterr().out)["questions"] == 24
    assert not (tmp_path / "run").exists()
    assert cli(monkeypatch, "run", settings, "--json") == 0
    results = json.loads(capsys.readouterr().out)
    assert results == json.loads((tmp_path / "run" / "results.json").read_text())
    assert cli(monkeypatch, "report", tmp_path / "run", "--json") == 0
    assert json.loads(capsys.readouterr().out) == results


def test_a_dry_run_reads_well(settings, monkeypatch, capsys):
    assert cli(monkeypatch, "run", settings, "--dry-run") == 0
    printed = capsys.readouterr().out
    assert "24 of custom, multiple choice (train" in printed
    assert "block.0, block.2" in printed
    assert "Nothing was computed or written" in printed


def test_a_cache_is_seen_checked_and_pruned(settings, tmp_path, monkeypatch, capsys):
    cli(monkeypatch, "run", settings)
    cache = tmp_path / "cache"
    capsys.readouterr()
    cli(monkeypatch, "cache", "ls", cache, "--json")
    (context,) = json.loads(capsys.readouterr().out)
    assert (context["rows"], context["kind"], context["dtype"]) == (24, "last_prompt", "float32")
    assert context["model_name"].endswith("model0") or context["model_name"]
    assert cli(monkeypatch, "cache", "verify", cache) == 0
    shard = next(cache.rglob("*.safetensors"))
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    assert cli(monkeypatch, "cache", "verify", cache) == 5
    cli(monkeypatch, "cache", "stat", cache, "--json")
    out = capsys.readouterr().out
    assert json.loads(out[out.index("{") :])["damaged"] == 1
    (cache / "mine.txt").write_text("precious")
    cli(monkeypatch, "cache", "prune", cache, "--dry-run")
    assert shard.with_suffix(".corrupt").exists()
    cli(monkeypatch, "cache", "prune", cache)
    assert not shard.with_suffix(".corrupt").exists()
    assert len(list(cache.rglob("context.json"))) == 1
    for path in cache.rglob("*"):
        os.utime(path, (0, 0))
    cli(monkeypatch, "cache", "prune", cache, "--older-than", 30)
    assert [path.name for path in cache.rglob("*")] == ["mine.txt"]
    assert cli(monkeypatch, "cache", "ls", tmp_path / "nowhere") == 2


class TestSeveralRuns:
    """What is compared, and how it looks, belongs to others: here stand-ins that say what they were given."""

    @pytest.fixture(autouse=True)
    def _stand_ins(self, monkeypatch, tmp_path):
        import src.pipeline
        import src.report

        compared = {"schema": 1, "verdict": ["é"]}
        monkeypatch.setattr(
            src.pipeline, "compare_runs", lambda runs, against: compared | {"runs": [*runs, *filter(None, [against])]}
        )
        monkeypatch.setattr(src.report, "print_comparison", lambda one: print(f"compared {one['runs']}"), raising=False)
        monkeypatch.setattr(src.report, "render_comparison", lambda one: f"<html>{one['verdict'][0]}", raising=False)
        monkeypatch.chdir(tmp_path)

    def test_they_are_compared_on_a_page_of_their_own(self, tmp_path, monkeypatch, capsys):
        assert cli(monkeypatch, "report", "one", "two", "three") == 0
        assert capsys.readouterr().out == "compared ['one', 'two', 'three']\nReport: comparison.html\n"
        assert [path.name for path in tmp_path.iterdir()] == ["comparison.html"]
        assert cli(monkeypatch, "report", "one", "--against", "step-2") == 0
        assert capsys.readouterr().out.startswith("compared ['one', 'step-2']")
        assert cli(monkeypatch, "report", "one", "two", "--output", "other.html") == 0
        assert (tmp_path / "other.html").read_text(encoding="utf-8") == "<html>é"

    def test_a_script_gets_json_and_a_page_only_where_it_asks(self, tmp_path, monkeypatch, capsys):
        assert cli(monkeypatch, "report", "one", "two", "--json") == 0
        assert json.loads(capsys.readouterr().out)["runs"] == ["one", "two"]
        assert not list(tmp_path.iterdir())
        assert cli(monkeypatch, "report", "one", "two", "--json", "--output", "page.html") == 0
        json.loads(capsys.readouterr().out)
        assert (tmp_path / "page.html").is_file()

    def test_a_page_that_cannot_be_written_is_one_sentence(self, tmp_path, monkeypatch, capsys):
        assert cli(monkeypatch, "report", "one", "two", "--output", "no/where.html") == 2
        assert "Choose another --output" in capsys.readouterr().err

    def test_of_one_run_there_is_no_other_page(self, monkeypatch, capsys):
        assert cli(monkeypatch, "report", "one", "--output", "page.html") == 2
        assert "give several runs" in capsys.readouterr().err


def test_a_finished_run_of_another_schema_is_not_read(tmp_path, monkeypatch, capsys):
    (tmp_path / "results.json").write_text('{"schema": 99}')
    assert cli(monkeypatch, "report", tmp_path) == 2
    assert "has schema 99, and this version reads 3" in capsys.readouterr().err
    (tmp_path / "results.json").write_text("{")
    assert cli(monkeypatch, "report", tmp_path) == 2


def test_credentials_and_secrets_have_their_codes(settings, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("TINKER_API_KEY", raising=False)
    assert cli(monkeypatch, "download", "tinker://r/external_weights/n", "base", tmp_path / "out") == 3
    assert cli(monkeypatch, "download", "tinker://r/sampler_weights/n", "base", tmp_path / "out") == 4
    assert cli(monkeypatch, "run", settings, "--set", "tinker.api_key=tml-abcdefgh12345678") == 2
    printed = capsys.readouterr().err
    assert "abcdefgh" not in printed
    assert "Traceback" not in printed


def test_the_version_is_printed(monkeypatch, capsys):
    from src import __version__

    assert cli(monkeypatch, "--version") == 0
    assert capsys.readouterr().out == f"confprobe {__version__}\n"


def test_a_checkpoint_that_is_not_there_is_no_fault_of_the_network(tmp_path, monkeypatch, capsys):
    assert cli(monkeypatch, "download", tmp_path / "nowhere.tar", "base", tmp_path / "out") == 2
    assert "Check the path" in capsys.readouterr().err
    assert cli(monkeypatch, "download", "tinker://r/nothing/n", "base", tmp_path / "out") == 4


def test_debug_shows_the_traceback(monkeypatch):
    from src.cli import main
    from src.errors import ConfigError

    monkeypatch.setattr(sys, "argv", ["confprobe", "--debug", "run", "nowhere.yaml"])
    monkeypatch.setenv("CONFPROBE_DEBUG", "")
    with pytest.raises(ConfigError):
        main()


def test_doctor_finds_this_installation_well(monkeypatch, capsys):
    assert cli(monkeypatch, "doctor", "--json") == 0
    findings = {finding["name"]: finding for finding in json.loads(capsys.readouterr().out)}
    assert findings["import src"]["text"].startswith(str(Path("src").absolute()))
    assert {"torch", "peft", "tinker credentials", "memory", "disk"} <= set(findings)
    assert cli(monkeypatch, "doctor") == 0
    assert "transformers" in capsys.readouterr().out


def test_texts_from_outside_are_printed_as_they_are(settings, tmp_path, monkeypatch, capsys):
    name = "[bold]mine[/bold] [/x] :smile:"
    assert cli(monkeypatch, "run", settings, "--set", f"experiment.name='{name}'") == 0
    assert name in capsys.readouterr().out
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    cli(monkeypatch, "doctor")
    assert "pip install bitsandbytes" in capsys.readouterr().out


def test_doctor_says_what_is_missing_or_in_the_way(tmp_path, monkeypatch):
    import src.tinker
    from src.doctor import examine

    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "__init__.py").touch()
    monkeypatch.setenv("TINKER_API_KEY", "tml-a-secret-key")
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    monkeypatch.setitem(sys.modules, "tinker", src.tinker)
    findings = {finding.name: finding for finding in examine(tmp_path)}
    assert findings["another src"].state == "wrong"
    assert str(tmp_path / "src") in findings["another src"].text
    assert findings["tinker credentials"].text == "from TINKER_API_KEY"
    assert findings["bitsandbytes"].state == "note"
    assert "pip install" in findings["bitsandbytes"].text
    assert findings["tinker"].state == "wrong"
    assert not any("secret" in finding.text for finding in findings.values())


def test_a_wrong_key_is_the_doctors_finding_and_not_his_end(monkeypatch):
    from src.doctor import examine

    monkeypatch.setenv("TINKER_API_KEY", "nonsense")
    monkeypatch.delenv("TINKER_CREDENTIAL_CMD", raising=False)
    (finding,) = [one for one in examine() if one.name == "tinker credentials"]
    assert finding.state == "wrong"
    assert "nonsense" not in finding.text


class TestAnotherSrc:
    """Python started in a folder that has a src/ of its own."""

    @pytest.fixture
    def elsewhere(self, tmp_path):
        (tmp_path / "src").mkdir()
        (tmp_path / "src" / "__init__.py").touch()
        return tmp_path

    def python(self, folder, *arguments):
        return subprocess.run(
            [sys.executable, *arguments], cwd=folder, capture_output=True, text=True, check=False, timeout=60
        )

    def test_the_command_and_the_import_say_which_one_was_found(self, elsewhere):
        for arguments in (["-m", "confprobe", "doctor"], ["-c", "import confprobe"]):
            done = self.python(elsewhere, *arguments)
            assert done.returncode == 1
            last = done.stderr.strip().splitlines()[-1]
            assert f"`import src` finds {elsewhere / 'src'}, which is not llm-confidence-probing" in last
        assert "Traceback" not in self.python(elsewhere, "-m", "confprobe", "doctor").stderr

    def test_a_folder_without_one_is_fine(self, tmp_path):
        done = self.python(tmp_path, "-c", "import confprobe, src.errors; print(src.errors.__name__)")
        assert done.stdout == "src.errors\n"


@pytest.mark.slow
def test_where_nobody_watches_only_results_and_warnings_are_printed(settings):
    done = subprocess.run(
        [*COMMAND, "run", str(settings), "--json"], capture_output=True, text=True, check=False, timeout=100,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0
    json.loads(done.stdout)
    assert done.stderr == ""
