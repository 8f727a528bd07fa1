// How a client of each server opens its connection, joins, and addresses its partner.
#pragma once
#include <cstring>
#include <string>
#include <string_view>

#include "payload.hpp"

namespace bench {

// `room` is the protocol of the minimal relays; `parley` and `peerjs` are what their clients say.
enum class Dialect { parley, peerjs, room };

struct Peer {
    std::string name;      // what its partner addresses it by; parley's server chooses it
    std::string room;
    std::string token;
    std::string prefix[KINDS];
    std::string suffix[KINDS];
};

inline bool contains(std::string_view text, std::string_view word) {
    return memmem(text.data(), text.size(), word.data(), word.size()) != nullptr;
}

// The string member `key` (with quotes and colon) at or after `from`; empty when there is none.
inline std::string member(std::string_view text, std::string_view key, size_t from = 0) {
    const size_t at = text.find(key, from);
    if (at == std::string_view::npos) return {};
    const size_t start = at + key.size() + 1;
    return std::string(text.substr(start, text.find('"', start) - start));
}

inline std::string upgrade_request(Dialect dialect, const Peer& peer, int port) {
    std::string path = "/";
    std::string extra;
    if (dialect == Dialect::parley) {
        path = "/v1/signal";
        extra = "Sec-WebSocket-Protocol: parley.v1.json\r\n";
    } else if (dialect == Dialect::peerjs) {
        path = "/peerjs?key=peerjs&id=" + peer.name + "&token=t" + peer.name + "&version=1.5.5";
    }
    // The key is the sample of RFC 6455 section 1.3. Compression is not offered to anybody.
    return "GET " + path + " HTTP/1.1\r\nHost: 127.0.0.1:" + std::to_string(port) +
           "\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
           "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n" + extra +
           "Origin: http://127.0.0.1:" + std::to_string(port) + "\r\nUser-Agent: parley-bench\r\n\r\n";
}

// The first message after the upgrade; empty where the server speaks first.
inline std::string greeting(Dialect dialect, const Peer& peer) {
    switch (dialect) {
        case Dialect::parley:
            return "{\"type\":\"hello\",\"token\":\"" + peer.token + "\",\"room\":\"" + peer.room + "\"}";
        case Dialect::room:
            return "{\"type\":\"join\",\"room\":\"" + peer.room + "\",\"id\":\"" + peer.name + "\"}";
        default:
            return {};
    }
}

inline bool says_joined(Dialect dialect, std::string_view message) {
    switch (dialect) {
        case Dialect::parley: return contains(message.substr(0, 24), "\"type\":\"room\"");
        case Dialect::peerjs: return contains(message, "\"OPEN\"");
        default: return contains(message, "\"joined\"");
    }
}

// Parley's server names the peers: the partner's name stands in the roster or in `peer_joined`.
inline std::string partner_named_in(std::string_view message) {
    if (contains(message.substr(0, 32), "\"type\":\"room\"")) {
        return member(message, "\"peer\":", message.find("\"peers\":"));
    }
    if (contains(message.substr(0, 32), "\"type\":\"peer_joined\"")) return member(message, "\"peer\":");
    return {};
}

// What stands around each payload. `relays` picks parley's general message for the candidate kind,
// as candidates proper need an offer and may not be repeated. A suffix lacks its last brace, so
// that an acknowledgement can be added.
inline void address(Dialect dialect, Peer& me, const std::string& partner, bool relays) {
    const char* types[KINDS] = {"candidate", "offer", "answer"};
    const char* shouted[KINDS] = {"CANDIDATE", "OFFER", "ANSWER"};
    for (int kind = 0; kind < KINDS; kind++) {
        const std::string type = types[kind];
        std::string& prefix = me.prefix[kind];
        std::string& suffix = me.suffix[kind];
        if (dialect == Dialect::parley) {
            const bool is_candidate = kind == CANDIDATE;
            const std::string name = is_candidate && relays ? "message" : type;
            const std::string field = !is_candidate ? "sdp" : relays ? "data" : "candidate";
            prefix = "{\"type\":\"" + name + "\",\"to\":\"" + partner + "\",\"" + field + "\":";
            suffix = "";
        } else if (dialect == Dialect::peerjs) {
            const std::string field = kind == CANDIDATE ? "{\"candidate\":" : "{\"sdp\":{\"type\":\"" + type + "\",\"sdp\":";
            prefix = std::string("{\"type\":\"") + shouted[kind] + "\",\"payload\":" + field;
            suffix = std::string(kind == CANDIDATE ? "" : "}") +
                     ",\"type\":\"media\",\"connectionId\":\"mc_3f9ab27c51d84e60a1\"},\"dst\":\"" + partner + "\"";
        } else {
            const std::string field = kind == CANDIDATE ? "" : "{\"type\":\"" + type + "\",\"sdp\":";
            prefix = "{\"type\":\"" + type + "\",\"to\":\"" + partner + "\",\"data\":" + field;
            suffix = kind == CANDIDATE ? "" : "}";
        }
    }
}

}  // namespace bench
