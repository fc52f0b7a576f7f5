"""Trial turnaround (compile + 500 steps) over thirty architectures, and trials an hour.

    python -m benchmarks.turnaround prepare --kit build/turnaround-kit      # where lark is
    python -u -m benchmarks.turnaround run --out build/turnaround [--kit ...] [--methods a,b]
    python -u -m benchmarks.turnaround profile --row small/rope --out build/turnaround
    python -u -m benchmarks.turnaround hourly --out build/turnaround
    python -m benchmarks.turnaround page --out build/turnaround

Methods, in this order: `cold` (ours with an empty kernel cache), `captured` (ours), `exact` (fp32,
for the losses), `eager`, `compile`. Ours runs all 500 steps; a peer's total is its measured set-up
and 497 times its median step. Each method has a process of its own, started again where a row
broke it; a row that is done is not run again, one that failed only with --retry. Needs torch on a
GPU, and lark or a prepared kit.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.turnaround.texts import texts

METHODS = ("cold", "captured", "exact", "eager", "compile")
RESTARTS = 4


def read(out: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """Finished rows by (method, size/name); the last line of a row counts."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for path in sorted(out.glob("rows-*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            found[row["method"], row["row"]] = row
    return found


def chosen(words: str) -> list[tuple[str, str]]:
    """The rows whose `size/name` is named, or whose size is; all for `all`."""
    asked = words.split(",")
    return [k for k in texts() if words == "all" or k[0] in asked or "/".join(k) in asked]


def part(args: argparse.Namespace, method: str) -> int:
    """The rows of one method, in this process."""
    import torch

    from benchmarks.turnaround.methods import Kit, measure, rows_of

    device = torch.device("cuda:0")
    torch.backends.cuda.matmul.allow_tf32 = True
    kit = Kit(args.kit)
    done = {k for k, row in read(args.out).items() if not (args.retry and "error" in row)}
    rows: dict[str, Any] = {}
    warmed = False
    with (args.out / f"rows-{method}.jsonl").open("a", buffering=1, encoding="utf-8") as file:
        for key in chosen(args.rows):
            name = "/".join(key)
            if (method, name) in done:
                continue
            if time.time() > args.deadline:
                print(f"{method}: out of time before {name}", flush=True)
                return 0
            if key[0] not in rows:
                rows[key[0]] = rows_of(key[0], device)
            if not warmed:
                warmed = True
                try:
                    _warm_up(method, kit, rows[key[0]], key, device)
                except Exception as error:  # noqa: BLE001  # the rows will tell
                    print(f"{method}: warm-up: {type(error).__name__}: {str(error)[:200]}")
            torch.cuda.reset_peak_memory_stats()
            begun = {"method": method, "row": name, "error": "the process ended here"}
            file.write(json.dumps(begun) + "\n")
            try:
                found = measure(method, key, kit, rows[key[0]], device, args.unroll)
                found["peak_bytes"] = torch.cuda.max_memory_allocated()
                found["compiled_here"] = kit.compiles()
            except Exception as error:  # noqa: BLE001  # one row's failure is that row's result
                found = {"error": f"{type(error).__name__}: {str(error)[:400]}"}
            file.write(json.dumps({"method": method, "row": name, **found}) + "\n")
            print(line_of(method, name, found), flush=True)
            if method == "compile":
                torch._dynamo.reset()
            torch.cuda.empty_cache()
            torch.cuda.synchronize()  # An error of the device that stays ends this process.
    return 0


def _warm_up(method: str, kit: Any, rows: Any, key: tuple[str, str], device: Any) -> None:
    """What a process pays once: imports, the context, libraries; on a model like the others."""
    from benchmarks.turnaround.methods import measure
    from benchmarks.turnaround.texts import SIZES

    if method == "cold":  # Kernels are what is to be seen cold: a model without any.
        import torch

        layer = torch.nn.Linear(8, 8, device=device)
        layer(torch.zeros(1, 8, device=device)).sum().backward()
        return
    assert key[0] in SIZES
    measure("captured" if method == "exact" else method, key, kit, rows, device, 1)


def line_of(method: str, name: str, row: dict[str, Any]) -> str:
    """A row as one line of the running table."""
    if "error" in row:
        return f"{method:<9}{name:<18} FAILED {row['error'][:160]}"
    if "step" not in row:
        return f"{method:<9}{name:<18} {len(row['losses'])} losses"
    more = f" capture {row['capture'] * 1e3:6.0f} ms" if "capture" in row else ""
    return (
        f"{method:<9}{name:<18} step {row['step'] * 1e3:7.3f} ms  set-up {row['setup']:6.3f} s"
        f"  total {row['total']:7.2f} s{more}"
    )


def run(args: argparse.Namespace) -> None:
    """Each method in a process of its own."""
    args.out.mkdir(parents=True, exist_ok=True)
    words = [sys.executable, "-u", "-m", "benchmarks.turnaround", "part", "--out", str(args.out)]
    words += ["--rows", args.rows, "--unroll", str(args.unroll)]
    words += ["--deadline", str(time.time() + 60 * args.minutes)]
    words += ["--kit", str(args.kit)] if args.kit else []
    for method in args.methods.split(","):
        for attempt in range(RESTARTS):
            retry = ["--retry"] if args.retry and not attempt else []
            here = [*words, "--methods", method, *retry]
            code = subprocess.run(here, check=False).returncode
            if code == 0:
                break
            print(f"{method}: the process ended with {code}; started again", flush=True)
    page(args)


def page(args: argparse.Namespace) -> None:
    """The tables so far."""
    from benchmarks.turnaround.page import page as text

    args.out.mkdir(parents=True, exist_ok=True)
    found = text(read(args.out))
    (args.out / "turnaround.md").write_text(found, encoding="utf-8")
    print(found, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("prepare", "run", "part", "profile", "hourly", "page"))
    parser.add_argument("--out", type=Path, default=Path("build/turnaround"))
    parser.add_argument("--kit", type=Path)
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--rows", default="all", help="sizes, or size/name, commas between")
    parser.add_argument("--row", default="small/rope", help="what to profile")
    parser.add_argument("--text", default="", help="profile this text in the shapes of --row")
    parser.add_argument("--unroll", type=int, default=1, help="steps in one graph")
    parser.add_argument("--retry", action="store_true", help="run failed rows again")
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--deadline", type=float, default=float("inf"))
    parser.add_argument("--layouts", default="", help="PROCESSESxSTREAMS, commas between")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each layout")
    args = parser.parse_args()
    if args.what == "prepare":
        from benchmarks.turnaround.methods import prepare

        return prepare(args.kit or Path("build/turnaround-kit"))
    if args.what == "part":
        sys.exit(part(args, args.methods))
    if args.what == "run":
        return run(args)
    if args.what == "page":
        return page(args)
    args.out.mkdir(parents=True, exist_ok=True)
    if args.what == "profile":
        from benchmarks.turnaround.profile import profile

        return profile(args.row, args.out, args.kit, args.text)
    from benchmarks.turnaround.hourly import hourly

    return hourly(args.out, args.kit, args.layouts, args.seconds)


if __name__ == "__main__":
    main()
