"""The code that trains: its commit, for readers, and a digest that shows whether processes run the same."""

import hashlib
import subprocess
from pathlib import Path

import resnet_flax

PACKAGE = Path(resnet_flax.__file__).parent


def code_version() -> str:
    """Return the commit of a source checkout, with "-dirty" if the package has changed since, or else the version."""
    if not (PACKAGE.parent / ".git").exists():
        return resnet_flax.__version__

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=PACKAGE, capture_output=True, text=True).stdout.strip()

    try:
        commit = git("rev-parse", "--short", "HEAD")
        changed = git("status", "--porcelain", "--", ".")
    except OSError:  # git is not installed
        return resnet_flax.__version__
    return commit + ("-dirty" if changed else "") if commit else resnet_flax.__version__


def code_digest() -> str:
    """Return 12 hex digits of the SHA-256 of all modules of the package."""
    digest = hashlib.sha256()
    for path in sorted(PACKAGE.rglob("*.py")):
        digest.update(str(path.relative_to(PACKAGE)).encode() + path.read_bytes())
    return digest.hexdigest()[:12]
