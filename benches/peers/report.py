"""Makes docs/benchmarks.md and docs/benchmarks.svg of what measure.py has saved."""

import matplotlib
import pages

matplotlib.use("svg")
import matplotlib.pyplot as plt  # noqa: E402 (the backend must be chosen before)

ORDER = ["hit-1", "hit-64", "hit-1000", "hit-log-key", "hit-tls", "hit-h2", "zipf", "new-connection", "half-load",
         "handshakes", "handshakes-resumed", "pending", "pending-100", "miss", "start", "collapse"]
CHARTED = ["hit-64", "hit-log-key", "hit-tls", "hit-h2", "zipf", "pending"]
COLOURS = {"exportgate": "#0b6e4f", "haproxy": "#5b8def", "nginx": "#8d99ae", "varnish": "#e09f3e", "floor": "#d9d9d9"}
COLUMNS = [
    ("requests/s", "rps", "{:,.0f}"), ("p50 ms", "p50_ms", "{:.2f}"), ("p99 ms", "p99_ms", "{:.2f}"),
    ("p99.9 ms", "p999_ms", "{:.2f}"), ("**CPU µs/request**", "cpu_us", "**{:.1f}**"), ("peak MiB", "rss_mb", "{:.0f}"),
    ("× best peer", "to_best_peer", "{:.2f}"), ("× floor", "to_floor", "{:.2f}"),
    ("p50 added ms", "p50_added_ms", "{:.2f}"), ("p99 added ms", "p99_added_ms", "{:.2f}"),
    ("slowest ms", "max_ms", "{:,.0f}"), ("upstream requests", "upstream_requests", "{:.0f}"),
    ("failed", "errors", "{:.0f}"),
]
ALWAYS = {"max_ms": {"collapse"}}

HEAD = """# Benchmarks

exportgate beside what people would use instead, and beside a floor: bare hyper with one look-up in a moka cache
(`benches/floor.rs`), which does none of the work. Made by

```sh
benches/peers/run.sh
```

which installs the peers from Debian, checks that each does its job (status, body, how often the upstream was asked), and
writes this page. It wants a quiet machine.

**CPU time per request is the figure to trust**: user and system time of the server's processes and threads, divided by the
requests that were answered. It hardly depends on the client and on what else the machine does; requests a second and the
percentiles do. "× best peer" and "× floor" are ratios of it.

![CPU time per request](benchmarks.svg)
"""

NOTES = """## What is compared

- Each server has one core (`taskset`), the client and the upstream have the other; loopback, keep-alive, 3,800-byte results.
  nginx: one worker. HAProxy: one thread. Varnish: one pool of threads. exportgate: one runtime worker.
- Each configuration ([`benches/peers`](../benches/peers)) does the same job with the server's own means: the credential
  is put in, one entry is shared by all, it is fresh for 45 minutes, equal requests at the same time are one (HAProxy
  cannot), connections to the upstream are kept. No access log, but where the table says so.
- A measurement in which a request of exportgate fails, or more than one in a hundred of a peer's, does not count;
  a column says where some failed.
- Servers and upstream are started anew for each measurement; peers take their turn in every round, and each round begins
  with another one. The tables show medians.
- wrk for HTTP/1.1, h2load for HTTP/2 and TLS, `benches/load.rs` for constant rates, bursts and handshakes.

## What is not fair, or not measured

- exportgate does more with each request than its peers do here: it parses and checks path, query and `Host`, obeys the
  client's `Cache-Control`, makes a request id, and counts. Of what passes through, it commits a record to disk before the
  answer leaves. None of the peers can see that a result is `PENDING`, or when its links die; here the path tells them.
- nginx keeps its cache in files. They are in memory here (tmpfs), which its peak memory does not show.
- HAProxy takes all of its cache's memory when it starts: 64 MiB, but 1 GiB for the Zipf draw and 2 GiB for misses.
- Varnish speaks no TLS by itself, and is not in those tables. Its log in shared memory is masked.
- TLS 1.3 with X25519 and an ECDSA P-256 certificate for all; the peers' OpenSSL does not know the post-quantum exchange
  that exportgate prefers where a client offers it.
- wrk and h2load send the next request when an answer is there (a closed loop), so their percentiles say how long a full
  queue is. The tables at constant rate count from when a request was due.
- On loopback, receiving is done in the sender's time: some of a server's network work is the client's, and the other way
  round, for all alike. No network card, no other machine, no real Snyk.
"""


def table(saved):
    results = saved["medians"]
    columns = [(title, key, form) for title, key, form in COLUMNS
               if any(key in result for result in results.values()) and saved["scenario"] in ALWAYS.get(key, ORDER)
               and (key != "errors" or any(result.get(key) for result in results.values()))]
    lines = ["| | " + " | ".join(title for title, _, _ in columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for peer, result in results.items():
        cells = [form.format(result[key]) if key in result else "" for _, key, form in columns]
        lines.append(f"| {peer} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def chart(saved, path):
    scenarios = [name for name in CHARTED if name in saved]
    plt.rcParams.update({"svg.hashsalt": "exportgate", "font.family": "sans-serif", "font.size": 9})
    figure, axes = plt.subplots(figsize=(8, 0.4 + 1.15 * len(scenarios)))
    place, ticks = 0.0, []
    named = set()
    for name in scenarios:
        results = saved[name]["medians"]
        begun = place
        for peer, result in results.items():
            if "cpu_us" not in result:
                continue
            axes.barh(place, result["cpu_us"], 0.86, color=COLOURS[peer], label=None if peer in named else peer)
            axes.text(result["cpu_us"], place, f" {result['cpu_us']:.1f}", va="center", fontsize=8)
            named.add(peer)
            place += 1
        ticks.append(((begun + place - 1) / 2, name))
        place += 0.8
    axes.set_yticks([at for at, _ in ticks], [name for _, name in ticks])
    axes.invert_yaxis()
    axes.set_xlabel("server CPU time per request, µs (less is better)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=len(named))
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


def main():
    saved, docs = pages.read(__doc__, ORDER)
    about = next(iter(saved.values()))
    machine = about["machine"]
    versions = {peer: version for one in saved.values() for peer, version in one["versions"].items()}
    parts = [HEAD]
    dates = sorted({one["date"] for one in saved.values()})
    parts.append(
        f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gib']} GiB, Linux {machine['kernel']}; "
        f"{' to '.join(dict.fromkeys((dates[0], dates[-1])))}. "
        + "; ".join(f"{version}" for peer, version in versions.items() if peer not in ("direct", "floor")) + ".\n")
    if any(one["quick"] for one in saved.values()) or machine["load"] > 0.5:
        parts.append("**Some of it is from a short run, or from a busy machine: the number of rounds stands with each table.**\n")
    for name, one in saved.items():
        parts.append(f"## {one['title']}\n\n`{name}`, {one['rounds']} rounds of {one['seconds']} s\n\n{table(one)}\n")
    parts.append(NOTES)
    docs.mkdir(parents=True, exist_ok=True)
    page = docs / "benchmarks.md"
    # That of benches/files stays.
    parts += [pages.section(page, name) for name in ("files", "fleet")]
    page.write_text("\n".join(parts))
    chart(saved, docs / "benchmarks.svg")


if __name__ == "__main__":
    main()
