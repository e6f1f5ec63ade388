"""Shell completion: a shell that loads the script offers the options of the command."""

import shutil
import subprocess

import pytest

from tumorjax.cli import main
from tumorjax.cli.completion import SHELLS

TYPED = 'COMP_WORDS=(tumorjax {words}); COMP_CWORD={count}; _shtab_tumorjax; printf "%s\\n" "${{COMPREPLY[@]}}"'


def printed(capsys, shell):
    assert main(["completion", shell]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("shell", SHELLS)
def test_scripts_know_every_subcommand(shell, capsys):
    script = printed(capsys, shell)
    for word in ("personalize", "simulate", "database", "train", "--segmentation", "fisher-kolmogorov"):
        assert word in script


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize(
    ("words", "offered"),
    (
        ("pers", {"personalize", "personalize-cohort"}),
        ("personalize --met", {"--method"}),
        ("personalize --method t", {"tmcmc"}),
        ("completion ", {"bash", "zsh", "tcsh"}),
    ),
)
def test_bash_offers(words, offered, capsys, tmp_path):
    script = tmp_path / "script"
    script.write_text(printed(capsys, "bash"))
    typed = words.split(" ")
    last = " ".join(f"'{word}'" for word in typed)
    # Outside an interactive shell `compgen` and `complete` work all the same.
    command = f"source {script}; " + TYPED.format(words=last, count=len(typed))
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == offered


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_completes_files_where_options_name_them(capsys, tmp_path):
    script = tmp_path / "script"
    script.write_text(printed(capsys, "bash"))
    (tmp_path / "seg.nii.gz").touch()
    typed = TYPED.format(words="personalize --segmentation se", count=3)
    done = subprocess.run(
        ["bash", "-c", f"source {script}; {typed}"], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert done.stdout.split() == ["seg.nii.gz"]


def test_refuses_an_unknown_shell(capsys):
    with pytest.raises(SystemExit) as end:
        main(["completion", "cmd"])
    assert end.value.code == 2
    assert "cmd" in capsys.readouterr().err
