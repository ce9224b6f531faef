"""`python -m ui.deploy OWNER/NAME`: puts this project on a Hugging Face Space.

What goes there is what git tracks here, less what only development needs, and on request a finished run. On the
Space, files of the same name are replaced; nothing is deleted.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Annotated, Any

import typer

from distiller.cli import run_cli
from distiller.errors import DistillerError
from distiller.runs import find_run
from distiller.tables import print_table

ROOT = Path(__file__).parents[1]
#: Only development needs these. A .gitignore would make the Hub leave out `runs/`.
SKIP = ("tests/*", "benchmarks/*", ".ci/*", ".git*", "requirements-dev.txt", "docs/*.png", "docs/*.jpg", "docs/*.gif")
#: Stored as large files (Xet, Git LFS), which .gitattributes tells the Hub.
LARGE = ("*.safetensors", "*.gguf", "*.bin", "*.parquet")
#: Of a run: what the arena and the leaderboard read.
RUN_FILES = ("job.yaml", "manifest.json", "report.json", "report.md", "data/test.jsonl", "student/*", "teacher/*")
SECRET_NAMES = (".env", ".env.*", "*.key", "*.pem", "*.p12", "id_rsa*", "id_ed25519*", ".netrc", ".pypirc")
SECRET_TEXT = re.compile(
    rb"\bhf_[A-Za-z0-9]{30,}|\bsk-[A-Za-z0-9_-]{32,}|\bAKIA[0-9A-Z]{16}\b|\bgh[pousr]_[A-Za-z0-9]{36}"
    rb"|-----BEGIN [A-Z ]*PRIVATE KEY-----"
)
NO_TOKEN = """\
This was a dry run: there is no token, so nothing was sent. To upload:
  1. Make a token with write access at https://huggingface.co/settings/tokens
  2. Run `hf auth login`, or set HF_TOKEN to it
  3. Start the same command again
"""
DONE = """\
{space} has it: https://huggingface.co/spaces/{space}
It builds for some minutes. Worth setting under Settings → Variables and secrets:
  DISTILLER_SALT                  any long random text, as a secret: visitors stay the same across restarts
  DATABASE_URL or VOTES_DATASET   where votes are kept: the disk of a Space does not last
"""


class DeployError(DistillerError):
    """What cannot be put on a Space, and why."""


def project_files(root: Path = ROOT) -> dict[str, Path]:
    """Path on the Space → file here, for what git tracks under `root` less SKIP. Raises DeployError without git."""
    try:
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=root, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise DeployError(
            f"git cannot list the files of {root} ({error}). Deploy from a clone of the project."
        ) from None
    names = [name for name in listed.split("\0") if name and not _matches(name, SKIP)]
    return {name: root / name for name in names if (root / name).is_file()}


def run_files(name: str) -> dict[str, Path]:
    """Path on the Space → file here, for a finished run. Raises RunError, or DeployError for a private one."""
    from ui.access import started_by

    run = find_run(name)
    if run.manifest is None:
        raise DeployError(f"Run {run.id} is not finished. Go on with: python -m distiller run {run.path('job.yaml')}")
    if started_by(run)[1]:
        raise DeployError(f"Run {run.id} was made from a visitor's own data, which is theirs. Name another run.")
    found = [path for pattern in RUN_FILES for path in sorted(run.folder.glob(pattern)) if path.is_file()]
    return {f"runs/{run.id}/{path.relative_to(run.folder).as_posix()}": path for path in found}


def refuse_secrets(files: Mapping[str, Path]) -> None:
    """Raises DeployError that names the files which look like a secret, by name or by what stands in them."""
    found = []
    for name, path in files.items():
        if _matches(path.name, SECRET_NAMES):
            found.append(name)
        elif not _matches(name, LARGE) and (hit := SECRET_TEXT.search(content := path.read_bytes())):
            found.append(f"{name}, line {len(content[: hit.start() + 1].splitlines())}")
    if found:
        raise DeployError(
            f"Nothing was sent: this looks like a secret: {'; '.join(found)}. Take it out of the files, and out of "
            "git's history; give it to the Space as a secret in its settings."
        )


def attributes(present: str = "") -> str:
    """A .gitattributes with a line for each kind of large file; lines that are there already stay."""
    lines = present.splitlines()
    known = {line.split()[0] for line in lines if "filter=lfs" in line}
    lines += [f"{kind} filter=lfs diff=lfs merge=lfs -text" for kind in LARGE if kind not in known]
    return "\n".join(lines) + "\n"


def overview(files: Mapping[str, Path]) -> list[dict[str, Any]]:
    """A row for each folder, each large file and the sum: what, how many files, size, and how it is stored."""
    groups: dict[tuple[str, str], list[int]] = {}
    for name, path in sorted(files.items()):
        large = _matches(name, LARGE)
        what = name if large or "/" not in name else f"{name.partition('/')[0]}/"
        groups.setdefault((what, "large file" if large else "git"), []).append(path.stat().st_size)
    rows = [
        {"what": what, "files": len(sizes), "size": _size(sizes), "stored as": stored}
        for (what, stored), sizes in groups.items()
    ]
    every = [size for sizes in groups.values() for size in sizes]
    return [*rows, {"what": "together", "files": len(every), "size": _size(every), "stored as": ""}]


def upload(space: str, files: Mapping[str, Path], api: Any, *, private: bool = False) -> None:
    """Makes the Space where there is none and sends the files in one commit. `api`: a huggingface_hub.HfApi.

    Raises DeployError with the Hub's words.
    """
    import httpx

    try:
        api.create_repo(space, repo_type="space", space_sdk="gradio", private=private, exist_ok=True)
        present = ""
        if api.file_exists(space, ".gitattributes", repo_type="space"):
            present = Path(api.hf_hub_download(space, ".gitattributes", repo_type="space")).read_text("utf-8")
        with tempfile.TemporaryDirectory() as folder:
            staged = Path(folder)
            for name, path in files.items():
                (staged / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, staged / name)
            (staged / ".gitattributes").write_text(attributes(present), "utf-8")
            api.upload_folder(repo_id=space, repo_type="space", folder_path=staged, commit_message="Deploy")
    except (OSError, httpx.HTTPError) as error:
        words = str(error).strip().split("\n")[0] or type(error).__name__
        raise DeployError(
            f"{space}: the Hub did not take it ({words}). Check the name, the connection, and that the token may "
            "write there."
        ) from None


def main(
    space: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="The Space. It is made where there is none.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be sent.")] = False,
    private: Annotated[bool, typer.Option("--private", help="A new Space is yours alone to see.")] = False,
    run: Annotated[str | None, typer.Option(help="A finished run to take along: its student and its report.")] = None,
) -> None:
    """Put this project on a Hugging Face Space. Without a token it is a dry run."""
    from huggingface_hub import HfApi, get_token

    if not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", space):
        raise typer.BadParameter(f"{space!r} is no Space. Expected OWNER/NAME, such as ada/support-distiller.")
    files = project_files() | (run_files(run) if run else {})
    refuse_secrets(files)
    print_table(overview(files), as_json=False, empty="", title=f"To {space}, beside what is there")
    token = get_token()
    if dry_run or token is None:
        typer.echo("This was a dry run: nothing was sent." if dry_run else NO_TOKEN)
        return
    upload(space, files, HfApi(token=token), private=private)
    typer.echo(DONE.format(space=space))


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)


def _size(sizes: Iterable[int]) -> str:
    total = sum(sizes)
    return f"{total / 1e6:,.1f} MB" if total >= 1e5 else f"{total / 1e3:,.1f} kB"


if __name__ == "__main__":
    run_cli(lambda: typer.run(main))
