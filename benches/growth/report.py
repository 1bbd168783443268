"""Makes docs/growth.md and docs/growth.svg of what measure.py has saved, and of reasons.toml."""

import pathlib
import tomllib

import matplotlib
import pages

matplotlib.use("svg")
import matplotlib.pyplot as plt  # noqa: E402 (the backend must be chosen before)

HERE = pathlib.Path(__file__).resolve().parent
HEAD = """# Growth

What grows with what is stored, configured and written down, and what is promised of an idle and of a busy program. Made by

```sh
benches/growth/run.sh
```

which wants a quiet machine. Times are of one core; **processor time and instructions are the figures to trust**.

![Memory, processor time and search time as they grow](growth.svg)
"""
# Of each measurement: its columns as title, key and form.
TABLES = {
    "entries": [
        ("entries", "entries", "{:,}"), ("library: bytes/entry", "rss_per_entry", "{:,.0f}"),
        ("**without body and fields**", "overhead", "**{:,.0f}**"),
        ("weighed", "weight", "{:,.0f}"), ("look-up µs", "lookup_us", "{:.2f}"),
        ("look-up instructions", "lookup_instructions", "{:,.0f}"),
        ("program: bytes/entry", "program_rss_per_entry", "{:,.0f}"),
        ("**without body and fields**", "program_overhead", "**{:,.0f}**"),
        ("**CPU µs/hit**", "program_cpu_us", "**{:.1f}**"), ("hits/s", "program_rps", "{:,.0f}"),
    ],
    "clients": [("clients", "clients", "{:,}"), ("**CPU µs/hit**", "cpu_us", "**{:.1f}**"), ("hits/s", "rps", "{:,.0f}")],
    "journal": [
        ("records", "records", "{:,}"), ("MiB", "mib", "{:,.0f}"), ("newest ms", "newest_ms", "{:.1f}"),
        ("id ms", "id_ms", "{:.1f}"), ("export ms", "export_ms", "{:.1f}"), ("org ms", "org_ms", "{:.1f}"),
        ("client ms", "client_ms", "{:.1f}"), ("status ms", "status_ms", "{:.1f}"),
        ("client and error ms", "client_error_ms", "{:.1f}"), ("client and nothing ms", "client_none_ms", "{:.1f}"),
        ("of it, starting ms", "start_ms", "{:.1f}"), ("commit p50 µs", "p50_us", "{:.0f}"),
        ("commit p99 µs", "p99_us", "{:.0f}"), ("**CPU µs/commit**", "commit_cpu_us", "**{:.0f}**"),
        ("µs/record in groups of 256", "write_us", "{:.1f}"),
    ],
    "cores": [
        ("cores", "cores", "{}"), ("what", "kind", "{}"), ("requests/s", "rps", "{:,.0f}"),
        ("**CPU µs/request**", "cpu_us", "**{:.1f}**"), ("cores of the server", "server_share", "{:.2f}"),
        ("cores of the client", "client_share", "{:.2f}"), ("p99 ms", "p99_ms", "{:.2f}"),
    ],
    "idle": [
        ("idle MiB", "idle_mib", "{:.1f}"), ("1,000 connections, MiB more", "connected_mib", "{:.1f}"),
        ("1,000 that have asked once, MiB more", "asked_mib", "{:.1f}"),
    ],
    "start": [
        ("starts", "starts", "{}"), ("**median ms**", "median_ms", "**{:.1f}**"), ("least ms", "least_ms", "{:.1f}"),
        ("most ms", "most_ms", "{:.1f}"), ("**CPU ms**, mean", "cpu_ms", "**{:.0f}**"),
    ],
    "pauses": [
        ("server", "server", "{}"), ("seconds", "seconds", "{:.0f}"), ("hits", "requests", "{:,}"), ("p50 ms", "p50_ms", "{:.2f}"),
        ("p99 ms", "p99_ms", "{:.2f}"), ("p99.9 ms", "p999_ms", "{:.2f}"), ("**slowest ms**", "max_ms", "**{:.1f}**"),
        ("**over 10 ms**", "over_10_ms", "**{:,}**"), ("misses", "others", "{:,}"),
        ("slowest miss ms", "others_max_ms", "{:.1f}"), ("misses over 10 ms", "others_over_10_ms", "{:,}"),
        ("client late by, ms", "late_max_ms", "{:.1f}"), ("late over 10 ms", "late_over_10_ms", "{:,}"),
    ],
}
# What is drawn: of which measurement, along what, which columns, and what the axis is called.
CURVES = [
    ("entries", "entries", {"overhead": "library", "program_overhead": "program"}, "bytes of an entry\nwithout body and fields"),
    ("entries", "entries", {"lookup_us": "look-up alone", "program_cpu_us": "hit, HTTP/1.1"}, "CPU µs"),
    ("clients", "clients", {"cpu_us": "hit with a key"}, "CPU µs"),
    ("journal", "records", {"newest_ms": "newest", "id_ms": "id", "export_ms": "export", "org_ms": "org",
                            "client_ms": "client", "status_ms": "status", "client_error_ms": "client, error",
                            "client_none_ms": "client, nothing", "start_ms": "starting alone"},
     "ms of `requests`"),
    ("journal", "records", {"p50_us": "time, the median", "commit_cpu_us": "CPU"}, "µs of one record's commit"),
]


def table(what, rows):
    columns = [column for column in TABLES[what] if any(column[1] in row for row in rows)]
    lines = ["| " + " | ".join(title for title, _, _ in columns) + " |", "|---" * len(columns) + "|"]
    for row in rows:
        cells = (form.format(row[key]) if row.get(key) is not None else "" for _, key, form in columns)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def chart(saved, path):
    curves = [curve for curve in CURVES if curve[0] in saved]
    if not curves:
        return
    plt.rcParams.update({"svg.hashsalt": "exportgate", "font.family": "sans-serif", "font.size": 9})
    figure, grid = plt.subplots((len(curves) + 1) // 2, 2, figsize=(9, 2.7 * ((len(curves) + 1) // 2)), squeeze=False)
    for axes in grid.flat[len(curves):]:
        axes.set_visible(False)
    for axes, (what, along, columns, label) in zip(grid.flat, curves):
        rows = saved[what]["rows"]
        for key, name in columns.items():
            points = [(row[along], row[key]) for row in rows if row.get(key) is not None]
            if points:
                axes.plot(*zip(*points), marker="o", markersize=3, label=name)
        axes.set_xscale("log")
        axes.set_ylim(bottom=0)
        axes.set_xlabel(along)
        axes.set_ylabel(label)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=7)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


def main():
    saved, docs = pages.read(__doc__, TABLES)
    reasons = tomllib.loads((HERE / "reasons.toml").read_text())
    parts = [HEAD]
    for what, one in saved.items():
        machine = one["machine"]
        busy = " **A short run, or a busy machine: its figures say little.**" if one["quick"] or machine["load"] > 0.5 else ""
        parts.append(f"## {one['title'].rstrip('.')}\n\n`{what}`, {one['date']}; {machine['processor']}, {machine['cores']} cores, "
                     f"Linux {machine['kernel']}.{busy}\n\n{table(what, one['rows'])}\n")
        if reasons.get(what):
            parts.append(reasons[what].strip() + "\n")
    docs.mkdir(parents=True, exist_ok=True)
    (docs / "growth.md").write_text("\n".join(parts))
    chart(saved, docs / "growth.svg")


if __name__ == "__main__":
    main()
