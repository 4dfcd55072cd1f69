"""A scheduler for a test: programs with the names of Slurm's that run a job script at once, in the background.

``sbatch`` starts a process per element of the array, which runs the script again for as long as it is requeued. ``scancel
--signal`` signals all processes of the step, ``scancel`` alone kills them. ``sacct`` tells the states.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path


def install(folder: Path) -> None:
    """Write the programs into a folder, which keeps the state of the jobs too."""
    folder.mkdir()
    for name in ("sbatch", "sacct", "scancel", "scontrol", "srun"):
        program = folder / name
        program.write_text(f"#!{sys.executable} -S\n{Path(__file__).read_text(encoding='utf-8')}")
        program.chmod(0o755)


def _state(job: str, text: str | None = None) -> str:
    file = _HERE / f"{job}.state"
    if text is not None:
        file.with_suffix(".new").write_text(text)
        file.with_suffix(".new").rename(file)
    return file.read_text()


def _sbatch(script: str) -> None:
    text = Path(script).read_text()
    number = 100 + len(list(_HERE.glob("*.sh")))
    (_HERE / f"{number}.sh").write_text(text)
    array = re.search(r"^#SBATCH --array=0-(\d+)", text, re.MULTILINE)
    cores = re.search(r"^#SBATCH --cpus-per-task=(\d+)", text, re.MULTILINE)
    for index in range(int(array[1]) + 1) if array else [None]:
        job = str(number) if index is None else f"{number}_{index}"
        place = {"SLURM_JOB_ID": job, "SLURM_NTASKS": "1", "SLURM_PROCID": "0"}
        place |= {"SLURM_CPUS_PER_TASK": cores[1]} if cores else {}
        if index is not None:
            place |= {"SLURM_ARRAY_JOB_ID": str(number), "SLURM_ARRAY_TASK_ID": str(index)}
        _state(job, "PENDING")
        command = [sys.executable, "-S", str(_HERE / "sbatch"), "--run", job, str(_HERE / f"{number}.sh")]
        null = subprocess.DEVNULL
        subprocess.Popen(command, env=os.environ | place, stdin=null, stdout=null, stderr=null, start_new_session=True)
    print(f"Submitted batch job {number}")


def _run(job: str, script: str) -> None:
    status = 0
    while _state(job) in ("PENDING", "REQUEUED"):
        _state(job, "RUNNING")
        status = subprocess.run(["bash", script], check=False).returncode
    if _state(job) == "RUNNING":
        _state(job, "FAILED" if status else "COMPLETED")


def _srun(*words: str) -> None:
    options = {"--output": 1, "--error": 2}
    rest = list(words)
    job = os.environ["SLURM_JOB_ID"]
    while rest[0].startswith("--"):
        option = rest.pop(0)
        if option in options:
            name = rest.pop(0).replace("%A_%a", job).replace("%j", job).replace("%t", "0")
            os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644), options[option])
    os.setpgid(0, 0)
    (_HERE / f"{job}.pid").write_text(str(os.getpid()))
    os.execvp(rest[0], rest)


def _scancel(job: str, *words: str) -> None:
    step = int((_HERE / f"{job}.pid").read_text())
    if words:
        os.killpg(step, signal.Signals[f"SIG{words[1]}"])
        return
    _state(job, "CANCELLED by 0")
    os.killpg(step, signal.SIGKILL)


def _scontrol(what: str, job: str) -> None:
    assert what == "requeue"
    _state(job, "REQUEUED")


def _sacct(*_: str) -> None:
    lines = [f"{file.stem}|{file.read_text()}|here" for file in sorted(_HERE.glob("*.state"))]
    print("\n".join(["JobID|State|NodeList", *lines]))


if __name__ == "__main__":
    _HERE = Path(__file__).resolve().parent
    if sys.argv[1:2] == ["--run"]:
        _run(*sys.argv[2:])
    else:
        {"sbatch": _sbatch, "srun": _srun, "scancel": _scancel, "scontrol": _scontrol, "sacct": _sacct}[Path(__file__).name](
            *sys.argv[1:]
        )
