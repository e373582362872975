"""Run all kernel benchmarks, print a table, and write it as Markdown with a plot beside it.

python -m bench.kernels.report [--quick] [--out FOLDER] [--only WORD]
"""

from __future__ import annotations

import argparse
from pathlib import Path

from bench.kernels.cases import all_cases
from bench.kernels.roofline import find_roofline
from bench.kernels.timing import Case, Result, measure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small sizes, a few rounds")
    parser.add_argument("--out", type=Path, help="folder for kernels.md and kernels.svg")
    parser.add_argument(
        "--only", default="", help="only cases whose maker contains this, as search_case"
    )
    options = parser.parse_args()
    lines: list[str] = []
    ratios: list[tuple[str, str, float]] = []
    roofline = find_roofline()
    if roofline is None:
        lines.append("No C++ compiler: shares of the machine's limit are not known.")
    else:
        reads = ", ".join(f"{level} {rate:.0f}" for level, rate in roofline.read().items())
        lines.append(f"One core: {roofline.fma():.0f} GFLOP/s of float32 FMA; reads GB/s: {reads}.")
    print("\n".join(lines))
    for maker in all_cases(options.quick):
        if options.only and options.only not in str(maker):
            continue
        case = maker()
        before = roofline.fma() if roofline else None
        results = measure(case, *((0.05, 3) if options.quick else (1.5, 15)))
        after = roofline.fma() if roofline else None
        section = table(case, results, max(before, after) if before and after else None)
        print("\n".join(section), flush=True)
        lines += section
        ratios += ratio(case, results)
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "kernels.md").write_text("\n".join(lines) + "\n")
        plot(ratios, options.out / "kernels.svg")


def table(case: Case, results: list[Result], peak: float | None) -> list[str]:
    """One section of Markdown: time, how it compares with our fastest, share of the limit."""
    own = min(r.seconds for r in results if r.name.startswith("sona"))
    lines = [
        "",
        f"### {case.group}",
        "",
        "| | min | median | against our best | of the FMA peak | GB/s |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for r in sorted(results, key=lambda r: r.seconds):
        share = ""
        if peak and case.flops:
            share = f"{case.flops / r.seconds / 1e9 / peak / case.threads:.2f}"
        rate = f"{case.bytes_read / r.seconds / 1e9:.1f}" if case.bytes_read else ""
        lines.append(
            f"| {r.name} | {clock(r.seconds)} | {clock(r.median_seconds)} "
            f"| {r.seconds / own:.2f} x | {share} | {rate} |"
        )
    lines += [f"| {name} | {why} | | | | |" for name, why in case.absent.items()]
    return lines


def ratio(case: Case, results: list[Result]) -> list[tuple[str, str, float]]:
    """The best peer of a case and how many times longer it takes."""
    own = min(r.seconds for r in results if r.name.startswith("sona"))
    peers = [r for r in results if not r.name.startswith("sona")]
    if not peers:
        return []
    best = min(peers, key=lambda r: r.seconds)
    return [(case.group, best.name, best.seconds / own)]


def clock(seconds: float) -> str:
    for unit, scale in (("s", 1.0), ("ms", 1e3), ("us", 1e6)):
        if seconds * scale >= 1.0:
            return f"{seconds * scale:.3g} {unit}"
    return f"{seconds * 1e9:.0f} ns"


def plot(ratios: list[tuple[str, str, float]], path: Path) -> None:
    """Bars: how many times longer than ours the best peer of each case takes."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 0.34 * len(ratios) + 1.2), layout="constrained")
    rows = ratios[::-1]
    bars = axes.barh([group for group, _, _ in rows], [value for _, _, value in rows])
    axes.bar_label(bars, [f"{value:.1f} x  {name}" for _, name, value in rows], padding=3)
    axes.axvline(1.0, color="black", linewidth=0.8)
    axes.set_xscale("log")
    axes.margins(x=0.35)
    axes.set_xlabel("time of the best peer / time of sona")
    figure.savefig(path)


if __name__ == "__main__":
    main()
