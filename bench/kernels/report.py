"""Run all kernel benchmarks, print a table, and write it as Markdown with a plot beside it.

python -m bench.kernels.report [--quick] [--out FOLDER] [--only WORD]
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from pathlib import Path

from bench.kernels.cases import all_cases
from bench.kernels.contest import FALLBACK
from bench.kernels.roofline import Limits, Roofline, find_roofline
from bench.kernels.timing import Case, Result, measure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small sizes, a few rounds")
    parser.add_argument("--out", type=Path, help="folder for kernels.md and kernels.svg")
    parser.add_argument(
        "--only", default="", help="only cases whose maker contains this, as search_case"
    )
    options = parser.parse_args()
    ratios: list[tuple[str, str, float]] = []
    roofline = find_roofline()
    lines = [describe(roofline)]
    print(lines[0])
    for maker in all_cases(options.quick):
        if options.only and options.only not in str(maker):
            continue
        case, results, limits = run(maker(), roofline, options.quick)
        section = table(case, results, limits)
        print("\n".join(section), flush=True)
        lines += section
        ratios += ratio(case, results)
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "kernels.md").write_text("\n".join(lines) + "\n")
        plot(ratios, options.out / "kernels.svg")


def describe(roofline: Roofline | None) -> str:
    """What the machine can do, in a line."""
    if roofline is None:
        return "No C++ compiler: shares of the machine's limit are not known."
    reads = ", ".join(f"{level} {rate:.0f}" for level, rate in roofline.rates.items())
    return f"One core: {roofline.fma():.0f} GFLOP/s of float32 FMA; reads GB/s: {reads}."


def run(
    case: Case, roofline: Roofline | None, quick: bool
) -> tuple[Case, list[Result], Limits | None]:
    """Time a case; the limits are the better of what the core did before it and after it."""
    if quick:
        # Small sizes say nothing about speed.
        case = replace(case, measures=[])
    before = roofline.limits() if roofline else None
    results = measure(case, *((0.05, 3) if quick else (1.5, 15)))
    after = roofline.limits() if roofline else None
    if before and after and before.gflops > after.gflops:
        after = before
    return case, results, after


@dataclass(frozen=True)
class Verdict:
    """What became of a measure; `met` is None where a contestant or the limit is not known."""

    text: str
    met: bool | None


def verdicts(case: Case, results: list[Result], limits: Limits | None) -> list[Verdict]:
    """Each measure of a case, by the minimum times."""
    seconds = {r.name: r.seconds for r in results}
    found = []
    for m in case.measures:
        for name in m.against or ("the FMA peak",):
            what = f"{m.ours} against {name}: at least {m.at_least:g}"
            if m.ours not in seconds or (m.against and name not in seconds):
                found.append(Verdict(f"{what}; not measured", None))
                continue
            if m.against:
                reached = seconds[name] / seconds[m.ours]
            elif limits:
                reached = case.flops / seconds[m.ours] / 1e9 / limits.gflops / case.threads
            else:
                found.append(Verdict(f"{what}; the peak is not known", None))
                continue
            met = reached >= m.at_least
            found.append(Verdict(f"{what}; {reached:.2f}, {'met' if met else 'MISSED'}", met))
    return found


def table(case: Case, results: list[Result], limits: Limits | None) -> list[str]:
    """One section of Markdown: time, how it compares with our fastest, share of the limit.

    The limit is that of float32 arithmetic on all of the data; what works on 8-bit copies may
    pass it.
    """
    own = fastest_of_ours(results).seconds
    least, by = limits.seconds(case) if limits and (case.flops or case.bytes_read) else (0.0, "")
    lines = [
        "",
        f"### {case.group}",
        "",
        f"| | min | median | against our best | of the limit{f' ({by})' if by else ''} |",
        "| --- | --- | --- | --- | --- |",
    ]
    for r in sorted(results, key=lambda r: r.seconds):
        share = f"{least / r.seconds:.2f}" if least else ""
        lines.append(
            f"| {r.name} | {clock(r.seconds)} | {clock(r.median_seconds)} "
            f"| {r.seconds / own:.2f} x | {share} |"
        )
    lines += [f"| {name} | {why} | | | |" for name, why in case.absent.items()]
    found = verdicts(case, results, limits)
    return lines + [""] * bool(found) + [f"- {v.text}" for v in found]


def ratio(case: Case, results: list[Result]) -> list[tuple[str, str, float]]:
    """The best peer of a case and how many times longer it takes."""
    own = fastest_of_ours(results).seconds
    peers = [r for r in results if not r.name.startswith("sona")]
    if not peers:
        return []
    best = min(peers, key=lambda r: r.seconds)
    return [(case.group, best.name, best.seconds / own)]


def fastest_of_ours(results: list[Result]) -> Result:
    """Of the native ones; the fallback is there to be compared."""
    native = [r for r in results if r.name.startswith("sona") and r.name != FALLBACK]
    return min(native, key=lambda r: r.seconds)


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
