"""Every bound of the signaling protocol in one place, with its unit in the name.

Operators change them under `[limits]` in parley.toml; clients see the ones that concern them in
`welcome.limits`.
"""

from __future__ import annotations

import msgspec


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Sizes in bytes, times in seconds, otherwise counts. Zero is never "unlimited"."""

    message_bytes: int = 128 * 1024
    """One text frame, after reassembly."""
    sdp_bytes: int = 128 * 1024
    data_bytes: int = 16 * 1024
    """Presence data of a peer."""
    json_depth: int = 64
    candidate_bytes: int = 2048
    candidates_per_message: int = 64
    candidates_per_generation: int = 200
    """RFC 8838 section 10: more than 100 pairs are of no use to an ICE agent."""
    held_bytes_per_generation: int = 64 * 1024
    held_bytes_per_node: int = 64 * 1024 * 1024
    open_generations: int = 2
    """That no description has named yet; without BUNDLE each has a ufrag per m-section."""
    early_ttl_s: float = 45.0
    """How long a candidate waits for the description it belongs to."""
    gate_timeout_s: float = 10.0
    """How long a `gated` receiver may leave a relayed description unconfirmed."""
    peers_per_room: int = 64
    rooms_per_node: int = 100_000
    peer_connections_per_pair: int = 4
    resume_window_s: float = 60.0
    """How long a session waits for its client after the connection is lost; 0: not at all."""
    outbox_messages: int = 1000
    """Of one session, unacknowledged and kept for a resume."""
    outbox_bytes: int = 512 * 1024
    outbound_bytes: int = 1024 * 1024
    """Unsent bytes of one connection before it is a slow consumer."""
    remembered_requests: int = 256
    """Request ids per session whose answers are repeated instead of executed again."""
    receipts_per_session: int = 256
    """Messages of one session followed at a time (feature `receipts`); the oldest give way."""
    hello_timeout_s: float = 10.0
    handshake_timeout_s: float = 10.0
    ping_interval_s: float = 10.0
    ping_timeout_s: float = 5.0
    connections_per_node: int = 100_000
    frames_per_tick: int = 16
    """Frames of one connection handled before its neighbours get their turn."""
