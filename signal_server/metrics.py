"""The Prometheus page: reads plain counters of core and edge at scrape time.

Nothing on the hot path knows Prometheus. Labels are codes and message types, never ids.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from signal_server.backplane.contract import Backplane
from signal_server.build import is_compiled
from signal_server.core.rate_limit import RateClass
from signal_server.edge.dispatcher import Dispatcher
from signal_server.edge.server import SocketServer

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class SignalingCollector(Collector):
    """Everything under `signaling_`."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        backplane: Backplane,
        sockets: SocketServer,
        http_sessions: Callable[[], int],
    ) -> None:
        self._backplane = backplane
        self._dispatcher = dispatcher
        self._sockets = sockets
        self._http_sessions = http_sessions

    def collect(self) -> Iterator[Metric]:
        about = {"version": version("parley-rtc"), "compiled": str(is_compiled()).lower()}
        yield InfoMetricFamily("signaling", "This node.", about)
        yield from self._levels()
        yield from self._core_counters()
        yield from self._socket_counters()

    def _levels(self) -> Iterator[Metric]:
        figures = self._backplane.figures()
        levels = {
            "connections": ("Open WebSocket connections.", len(self._sockets.sockets)),
            "http_sessions": ("Sessions attached over HTTP.", self._http_sessions()),
            "sessions": ("Sessions that have said hello.", figures.sessions),
            "calls": ("Calls that are not over.", figures.calls),
            "rooms": ("Rooms with at least one peer.", figures.rooms),
            "candidates_buffered": ("Candidates held back.", figures.tally.candidates_held),
            "candidate_buffer_bytes": ("Size of the held candidates.", figures.tally.held_bytes),
            "draining": ("1 while this node goes away.", int(self._dispatcher.is_draining)),
        }
        for name, (text, value) in levels.items():
            yield GaugeMetricFamily(f"signaling_{name}", text, value=value)

    def _core_counters(self) -> Iterator[Metric]:
        figures = self._backplane.figures()
        tally = figures.tally
        messages = CounterMetricFamily(
            "signaling_messages", "Messages by direction and type.", labels=["direction", "type"]
        )
        for direction, by_type in (("in", self._dispatcher.received_by_type), ("out", tally.sent)):
            for kind, count in sorted(by_type.items()):
                messages.add_metric([direction, kind], count)
        yield messages
        yield _labelled(
            "signaling_errors",
            "Error messages sent.",
            "code",
            tally.refused + self._dispatcher.refused,
        )
        yield _labelled(
            "signaling_candidates_dropped",
            "Candidates that will not reach their peer.",
            "reason",
            tally.candidates_dropped,
        )
        candidates = {"at_once": tally.candidates_passed, "after_hold": tally.candidates_released}
        yield _labelled("signaling_candidates_relayed", "Candidates relayed.", "how", candidates)
        yield _labelled("signaling_resumes", "Resumes by outcome.", "outcome", tally.resumes)
        refused = {kind.name.lower(): figures.too_fast[kind] for kind in RateClass}
        yield _labelled("signaling_rate_limited", "Messages refused as too fast.", "class", refused)
        yield CounterMetricFamily("signaling_joins", "Rooms joined.", value=tally.joins)
        yield CounterMetricFamily("signaling_glare", "Colliding offers.", value=tally.glare)
        yield CounterMetricFamily(
            "signaling_gate_timeouts",
            "Descriptions that a gated receiver never confirmed.",
            value=tally.gate_timeouts,
        )

    def _socket_counters(self) -> Iterator[Metric]:
        counters = self._sockets.counters
        opened = {"websocket": counters.opened}
        yield _labelled(
            "signaling_connections_opened", "Connections accepted.", "transport", opened
        )
        yield _labelled(
            "signaling_connections_rejected",
            "Handshakes refused.",
            "reason",
            counters.rejected,
        )
        closed = {str(code): count for code, count in counters.closed_by_us.items()}
        yield _labelled("signaling_server_closes", "Connections closed by us.", "code", closed)
        size = CounterMetricFamily(
            "signaling_message_bytes", "WebSocket bytes by direction.", labels=["direction"]
        )
        size.add_metric(["in"], counters.bytes_in)
        size.add_metric(["out"], counters.bytes_out)
        yield size
        plain = {
            "slow_consumer_closes": ("Peers that did not read.", counters.slow),
            "ping_timeouts": ("Peers that went silent.", counters.ping_timeout),
            "connections_lost": ("Connections lost without a close frame.", counters.lost),
            "internal_errors": (
                "Bugs that closed one session.",
                counters.endpoint_errors + self._backplane.failures,
            ),
        }
        for name, (text, value) in plain.items():
            yield CounterMetricFamily(f"signaling_{name}", text, value=value)


def _labelled(name: str, text: str, label: str, values: Mapping[str, int]) -> CounterMetricFamily:
    family = CounterMetricFamily(name, text, labels=[label])
    for value, count in sorted(values.items()):
        family.add_metric([value], count)
    return family


def page(*collectors: Collector) -> CollectorRegistry:
    """A registry of its own: importing Parley adds nothing to the process-wide one."""
    registry = CollectorRegistry(auto_describe=False)
    for collector in collectors:
        registry.register(collector)
    return registry


def render(registry: CollectorRegistry) -> bytes:
    """Prometheus text format 0.0.4."""
    return generate_latest(registry)
