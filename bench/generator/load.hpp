// The clients of one run, their event loop, and what they say to each other.
#pragma once
#include <fstream>
#include <string>
#include <vector>

#include "clock.hpp"
#include "connection.hpp"
#include "dialect.hpp"
#include "histogram.hpp"
#include "payload.hpp"

namespace bench {

constexpr int CANDIDATES = 10;
constexpr uint64_t SECOND = 1'000'000'000ull;

enum class Mode { relay, open, setup, storm, idle };

struct Options {
    Mode mode = Mode::relay;
    Dialect dialect = Dialect::room;
    int port = 0;
    int server_pid = 0;
    std::string tokens_file;
    int pairs = 100;
    int connections = 5000;
    int concurrency = 64;
    double seconds = 3;
    double warm_up = 1;
    double rate = 20000;
    bool receipts = false;
};

struct Client {
    Connection connection;
    Peer peer;
    int id = 0;
    bool is_dirty = false;
    bool has_joined = false;
    bool is_checked = false;
    bool has_description = false;
    int candidates = 0;         // of this call, received
    uint64_t call = 0;
    uint64_t call_began = 0;
    uint64_t started_at = 0;
    uint64_t seq = 0;           // last numbered message, acknowledged by the next one sent
    std::string partner;
};

class Load {
  public:
    explicit Load(const Options& options) : options_(options) {
        epoll_ = epoll_create1(0);
        run_ = std::to_string(now_ns() % 1'000'000);
        random_ ^= now_ns() * 0x9E3779B97F4A7C15ull;
        std::ifstream file(options_.tokens_file);
        for (std::string line; std::getline(file, line);) tokens_.push_back(line);
        waits_for_partner_ = options_.dialect == Dialect::parley;
    }

  protected:
    bool connect_all(int count) {
        clients_.resize(size_t(count));
        const uint64_t deadline = now_ns() + 120 * SECOND;
        int started = 0;
        while (joined_ < count || (waits_for_partner_ && partners_ < count)) {
            while (started < count && started - joined_ < options_.concurrency) begin(started++);
            poll(1000);
            if (errors_ || now_ns() > deadline) {
                fprintf(stderr, "%d of %d joined, %d errors\n", joined_, count, errors_);
                return false;
            }
        }
        return true;
    }

    void address_partners() {
        for (Client& client : clients_) {
            const Peer& other = clients_[size_t(client.id ^ 1)].peer;
            const std::string& name = waits_for_partner_ ? client.partner : other.name;
            address(options_.dialect, client.peer, name, options_.mode != Mode::setup);
        }
    }

    void poll(int timeout_ms) {
        epoll_event events[512];
        const int count = epoll_wait(epoll_, events, 512, timeout_ms);
        for (int i = 0; i < count; i++) {
            if (events[i].data.u32 == STDIN) {
                is_released_ = true;
            } else {
                ready(clients_[events[i].data.u32], events[i].events);
            }
        }
        flush();
    }

    void watch_stdin() {
        epoll_event wanted = {};
        wanted.events = EPOLLIN;
        wanted.data.u32 = STDIN;
        epoll_ctl(epoll_, EPOLL_CTL_ADD, 0, &wanted);
    }

    void flush() {
        for (size_t i = 0; i < dirty_.size(); i++) {
            Client& client = clients_[size_t(dirty_[i])];
            client.is_dirty = false;
            if (client.connection.state == Connection::DEAD) continue;
            if (!client.connection.flush()) fail(client, "send");
        }
        dirty_.clear();
    }

    void send_payload(Client& client, Kind kind, uint64_t at, int index) {
        const Payload& payload = kind == CANDIDATE ? candidate_ : description_;
        const std::string& prefix = client.peer.prefix[kind];
        text_.assign(prefix).append(payload.text());
        payload.stamp(&text_[prefix.size()], {at, client.id & 1, kind}, client.call, index);
        text_.append(client.peer.suffix[kind]);
        if (options_.dialect == Dialect::parley) {
            // As parley.js does: a description asks for a receipt, and everything acknowledges.
            if (kind != CANDIDATE || options_.receipts) text_.append(",\"id\":").append(std::to_string(++requests_));
            text_.append(",\"ack\":").append(std::to_string(client.seq));
        }
        text_.push_back('}');
        client.connection.queue_frame(text_, TEXT, uint32_t(next_random()));
        if (options_.mode != Mode::setup) return mark(client);
        if (!client.connection.flush()) fail(client, "send");
    }

    void start_call(Client& caller) {
        Client& callee = clients_[size_t(caller.id ^ 1)];
        caller.call = ++callee.call;
        for (Client* client : {&caller, &callee}) {
            client->candidates = 0;
            client->has_description = false;
        }
        caller.call_began = now_ns();
        send_half(caller, OFFER);
    }

    uint64_t next_random() {
        random_ ^= random_ << 13;
        random_ ^= random_ >> 7;
        return random_ ^= random_ << 17;
    }

    const Options options_;
    std::vector<Client> clients_;
    Histogram joins_, latencies_, call_times_;
    uint64_t delivered_ = 0, calls_ = 0;
    int errors_ = 0;
    bool is_measuring_ = false, is_released_ = false;

  private:
    static constexpr uint32_t STDIN = 0xffffffff;

    void begin(int id) {
        Client& client = clients_[size_t(id)];
        client.id = id;
        client.peer.room = "room-" + run_ + "-" + std::to_string(id / 2);
        client.peer.name = "peer" + run_ + "x" + std::to_string(id);
        if (!tokens_.empty()) client.peer.token = tokens_[size_t(id) % tokens_.size()];
        client.started_at = now_ns();
        if (!client.connection.start(epoll_, uint32_t(id), options_.port)) fail(client, "connect");
    }

    void fail(Client& client, const char* what) {
        if (client.connection.state == Connection::DEAD) return;
        if (errors_++ < 3) fprintf(stderr, "client %d: %s (%s)\n", client.id, what, strerror(errno));
        client.connection.kill();
    }

    void ready(Client& client, uint32_t events) {
        Connection& connection = client.connection;
        if (connection.state == Connection::DEAD) return;
        if (connection.state == Connection::CONNECTING) {
            if (events & (EPOLLERR | EPOLLHUP)) return fail(client, "connection refused");
            if (!(events & EPOLLOUT)) return;
            connection.state = Connection::UPGRADING;
            connection.queue_raw(upgrade_request(options_.dialect, client.peer, options_.port));
            mark(client);
        } else if (events & EPOLLOUT && connection.has_output()) {
            mark(client);
        }
        if (!(events & (EPOLLIN | EPOLLHUP | EPOLLERR))) return;
        const auto got = [&](uint8_t opcode, std::string_view payload) { received(client, opcode, payload); };
        if (!connection.receive(scratch_, sizeof scratch_, got)) fail(client, "connection lost");
    }

    void mark(Client& client) {
        if (client.is_dirty) return;
        client.is_dirty = true;
        dirty_.push_back(client.id);
    }

    void send(Client& client, std::string_view payload, uint8_t opcode) {
        client.connection.queue_frame(payload, opcode, uint32_t(next_random()));
        mark(client);
    }

    void received(Client& client, uint8_t opcode, std::string_view payload) {
        if (opcode == TEXT) {
            note_seq(client, payload);
            client.has_joined ? relayed(client, payload) : joining(client, payload);
        } else if (opcode == PING) {
            send(client, payload, PONG);
        } else if (opcode == CLOSE) {
            fail(client, "closed by the server");
        } else if (opcode == UPGRADED) {
            const std::string first = greeting(options_.dialect, client.peer);
            if (!first.empty()) send(client, first, TEXT);
        }
    }

    void note_seq(Client& client, std::string_view message) {
        if (options_.dialect != Dialect::parley) return;
        const size_t at = message.substr(0, 64).find("\"seq\":");
        if (at != message.npos) client.seq = strtoull(message.data() + at + 6, nullptr, 10);
    }

    void note_partner(Client& client, std::string_view message) {
        if (!waits_for_partner_ || !client.partner.empty()) return;
        client.partner = partner_named_in(message);
        partners_ += !client.partner.empty();
    }

    void joining(Client& client, std::string_view message) {
        if (says_joined(options_.dialect, message)) {
            client.has_joined = true;
            joined_++;
            joins_.add(now_ns() - client.started_at);
            note_partner(client, message);
        } else {
            watch_for_error(client, message);
        }
    }

    void watch_for_error(Client& client, std::string_view message) {
        const std::string_view head = message.substr(0, 32);
        if (!contains(head, "\"type\":\"error\"") && !contains(head, "\"type\":\"ERROR\"")) return;
        fprintf(stderr, "%.*s\n", int(message.size()), message.data());
        fail(client, "refused");
    }

    void relayed(Client& client, std::string_view message) {
        size_t at = message.find(MARK);
        if (at == message.npos) {  // somebody came, a receipt, a push
            note_partner(client, message);
            return watch_for_error(client, message);
        }
        const uint64_t now = now_ns();
        const Mark mark = Mark::read(message.data() + at);
        if (mark.side == (client.id & 1)) return fail(client, "its own message came back");
        check(client, message, mark.kind);
        int count = 0;
        for (; at != message.npos; at = message.find(MARK, at + MARK_SIZE), count++) {
            const uint64_t sent_at = Mark::read(message.data() + at).sent_at;
            if (is_measuring_) latencies_.add(now > sent_at ? now - sent_at : 0);
        }
        delivered_ += uint64_t(count);
        if (options_.mode == Mode::relay) send_payload(client, CANDIDATE, now, 0);
        if (options_.mode == Mode::setup) advance(client, mark.kind, count, now);
    }

    // The first payload is looked at closely; of the others the size must be right.
    void check(Client& client, std::string_view message, Kind kind) {
        const Payload& payload = kind == CANDIDATE ? candidate_ : description_;
        if (message.size() < payload.text().size()) return fail(client, "a payload came cut");
        if (client.is_checked) return;
        client.is_checked = true;
        if (!contains(message, payload.proof())) fail(client, "a payload came changed");
    }

    void send_half(Client& client, Kind description) {
        const uint64_t now = now_ns();
        send_payload(client, description, now, 0);
        for (int i = 0; i < CANDIDATES; i++) send_payload(client, CANDIDATE, now, i);
    }

    void advance(Client& client, Kind kind, int count, uint64_t now) {
        if (kind == CANDIDATE) {
            client.candidates += count;
            if (!client.has_description) return fail(client, "a candidate overtook its description");
            if (client.candidates > CANDIDATES) return fail(client, "a candidate came twice");
        } else {
            client.has_description = true;
            if (kind == OFFER) send_half(client, ANSWER);
        }
        Client& caller = clients_[size_t(client.id & ~1)];
        const Client& callee = clients_[size_t(client.id | 1)];
        if (caller.candidates + callee.candidates < 2 * CANDIDATES || !caller.has_description) return;
        if (is_measuring_) {
            calls_++;
            call_times_.add(now - caller.call_began);
        }
        start_call(caller);
    }

    const Payload candidate_ = make_candidate();
    const Payload description_ = make_description();
    std::vector<int> dirty_;
    std::vector<std::string> tokens_;
    std::string run_;
    std::string text_;
    char scratch_[1 << 18];
    uint64_t random_ = 88172645463325252ull, requests_ = 0;
    int epoll_ = -1, joined_ = 0, partners_ = 0;
    bool waits_for_partner_ = false;
};

}  // namespace bench
