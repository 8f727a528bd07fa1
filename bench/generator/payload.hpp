// What peers say to each other: an SDP of a usual size and a candidate line, the same for every
// server. Each copy carries a mark (when it was sent, by which side, what it is), put where a
// conforming server must leave it alone: the session name, and the candidate's foundation.
#pragma once
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

namespace bench {

enum Kind { CANDIDATE, OFFER, ANSWER, KINDS };

constexpr std::string_view MARK = "+T+";
constexpr size_t MARK_SIZE = 3 + 16 + 3;
constexpr std::string_view UFRAG = "uuuuuuuu";
constexpr std::string_view PORT = "4615";
constexpr const char* HEX = "0123456789abcdef";

inline void put_hex(char* at, uint64_t value, int digits) {
    for (int i = digits - 1; i >= 0; i--, value >>= 4) at[i] = HEX[value & 15];
}

struct Mark {
    uint64_t sent_at = 0;
    int side = 0;
    Kind kind = CANDIDATE;

    static Mark read(const char* at) {
        Mark mark;
        for (int i = 3; i < 19; i++) {
            const char digit = at[i];
            mark.sent_at = mark.sent_at << 4 | uint64_t(digit <= '9' ? digit - '0' : digit - 'a' + 10);
        }
        mark.side = at[19] - 'a';
        mark.kind = Kind(at[20] - '0');
        return mark;
    }
};

// One JSON value with the places that differ from copy to copy.
class Payload {
  public:
    explicit Payload(std::string text, std::string_view proof) : text_(std::move(text)), proof_(proof) {
        mark_ = text_.find(MARK);
        for (size_t at = 0; (at = text_.find(UFRAG, at)) != std::string::npos; at++) ufrags_.push_back(at);
        const size_t port = text_.find(PORT);
        port_ = port == std::string::npos ? 0 : port + PORT.size();
    }

    const std::string& text() const { return text_; }
    std::string_view proof() const { return proof_; }

    // `at` points to a copy of the text. `call` makes a new ICE ufrag, `index` a new candidate.
    void stamp(char* at, const Mark& mark, uint64_t call, int index) const {
        char* to = at + mark_ + MARK.size();
        put_hex(to, mark.sent_at, 16);
        to[16] = char('a' + mark.side);
        to[17] = char('0' + mark.kind);
        to[18] = char('0' + index);
        for (size_t ufrag : ufrags_) {
            at[ufrag] = char('a' + mark.side);
            put_hex(at + ufrag + 1, call, 7);
        }
        if (port_) at[port_] = char('0' + index);
    }

  private:
    std::string text_;
    std::string_view proof_;
    size_t mark_ = 0;
    size_t port_ = 0;
    std::vector<size_t> ufrags_;
};

inline Payload make_candidate() {
    return Payload(
        "{\"candidate\":\"candidate:+T+0000000000000000aaa 1 udp 1677729535 203.0.113.77 46150 typ srflx"
        " raddr 0.0.0.0 rport 0 generation 0 ufrag uuuuuuuu network-id 3 network-cost 999\","
        "\"sdpMid\":\"0\",\"sdpMLineIndex\":0,\"usernameFragment\":\"uuuuuuuu\"}",
        "network-id 3 network-cost 999");
}

// A JSON string, quotes included, of about 3 KB: audio and video as a browser offers them.
inline Payload make_description() {
    std::string sdp =
        "\"v=0\\r\\no=- 4611731400430051336 2 IN IP4 127.0.0.1\\r\\ns=+T+0000000000000000aaa\\r\\nt=0 0\\r\\n"
        "a=group:BUNDLE 0\\r\\na=extmap-allow-mixed\\r\\na=msid-semantic: WMS\\r\\n"
        "m=video 9 UDP/TLS/RTP/SAVPF 96 97 98 99 100 101 35 36\\r\\nc=IN IP4 0.0.0.0\\r\\n"
        "a=rtcp:9 IN IP4 0.0.0.0\\r\\na=ice-ufrag:uuuuuuuu\\r\\na=ice-pwd:bP+XJMM09aR8AiX1jdukzR6Y\\r\\n"
        "a=ice-options:trickle\\r\\na=fingerprint:sha-256 49:66:12:17:0D:1C:91:AE:57:4C:C6:36:DD:D5:97:D2:"
        "7D:62:C9:9A:7F:B9:A3:F4:70:03:E7:43:91:73:23:5E\\r\\na=setup:actpass\\r\\na=mid:0\\r\\n";
    for (int type = 35; sdp.size() < 2900; type++) {
        char lines[192];
        snprintf(lines, sizeof lines,
                 "a=rtpmap:%d H264/90000\\r\\na=rtcp-fb:%d nack pli\\r\\n"
                 "a=fmtp:%d level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42e01f\\r\\n",
                 type, type, type);
        sdp += lines;
    }
    return Payload(sdp + "\"", "a=setup:actpass");
}

}  // namespace bench
