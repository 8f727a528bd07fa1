// One client's WebSocket over a non-blocking socket: handshake, frames in, masked frames out.
#pragma once
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>
#include <string_view>

namespace bench {

enum : uint8_t { UPGRADED = 0, TEXT = 1, CLOSE = 8, PING = 9, PONG = 10 };

class Connection {
  public:
    enum State { IDLE, CONNECTING, UPGRADING, OPEN, DEAD };

    State state = IDLE;

    bool start(int epoll, uint32_t tag, int port) {
        fd_ = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
        const int one = 1;
        setsockopt(fd_, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        const linger reset = {1, 0};  // no TIME_WAIT: a storm would run out of ports
        setsockopt(fd_, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
        sockaddr_in server = {};
        server.sin_family = AF_INET;
        server.sin_port = htons(uint16_t(port));
        inet_pton(AF_INET, "127.0.0.1", &server.sin_addr);
        state = CONNECTING;
        const int begun = connect(fd_, reinterpret_cast<sockaddr*>(&server), sizeof server);
        if (begun < 0 && errno != EINPROGRESS) return false;
        epoll_event wanted = {};
        wanted.events = EPOLLIN | EPOLLOUT | EPOLLET;
        wanted.data.u32 = tag;
        return epoll_ctl(epoll, EPOLL_CTL_ADD, fd_, &wanted) == 0;
    }

    void kill() {
        if (fd_ >= 0) close(fd_);
        fd_ = -1;
        state = DEAD;
    }

    void queue_raw(std::string_view bytes) { out_.append(bytes); }

    void queue_frame(std::string_view payload, uint8_t opcode, uint32_t key) {
        const size_t size = payload.size();
        const size_t head = (size < 126 ? 2 : size < 65536 ? 4 : 10) + 4;
        const size_t start = out_.size();
        out_.resize(start + head + size);
        auto* at = reinterpret_cast<unsigned char*>(&out_[start]);
        at[0] = 0x80 | opcode;
        if (size < 126) {
            at[1] = 0x80 | uint8_t(size);
        } else if (size < 65536) {
            at[1] = 0x80 | 126;
            at[2] = uint8_t(size >> 8);
            at[3] = uint8_t(size);
        } else {
            at[1] = 0x80 | 127;
            for (int i = 0; i < 8; i++) at[2 + i] = uint8_t(uint64_t(size) >> (56 - 8 * i));
        }
        memcpy(at + head - 4, &key, 4);
        memcpy(at + head, payload.data(), size);
        mask(at + head, size, key);
    }

    // False when the connection broke. What the kernel does not take now goes out on EPOLLOUT.
    bool flush() {
        while (sent_ < out_.size()) {
            const ssize_t taken = send(fd_, out_.data() + sent_, out_.size() - sent_, MSG_NOSIGNAL);
            if (taken < 0) return errno == EAGAIN;
            sent_ += size_t(taken);
        }
        out_.clear();
        sent_ = 0;
        return true;
    }

    bool has_output() const { return sent_ < out_.size(); }

    // Calls `got(opcode, payload)` for each whole frame; false when the connection broke.
    template <typename Got>
    bool receive(char* scratch, size_t room, Got got) {
        for (;;) {
            const ssize_t size = recv(fd_, scratch, room, 0);
            if (size < 0) return errno == EAGAIN;
            if (size == 0) return false;
            bool is_fine;
            if (in_.empty()) {
                is_fine = take({scratch, size_t(size)}, got);
            } else {
                std::string joined;
                joined.swap(in_);
                joined.append(scratch, size_t(size));
                is_fine = take(joined, got);
            }
            if (!is_fine || state == DEAD) return false;
            if (size_t(size) < room) return true;
        }
    }

  private:
    template <typename Got>
    bool take(std::string_view bytes, Got& got) {
        if (state == UPGRADING) {
            const size_t end = bytes.find("\r\n\r\n");
            if (end == std::string_view::npos) {
                in_.assign(bytes);
                return true;
            }
            const std::string_view head = bytes.substr(0, end);
            if (head.substr(9, 3) != "101" || head.find("permessage-deflate") != head.npos) {
                fprintf(stderr, "the upgrade failed: %.*s\n", int(end), head.data());
                return false;
            }
            bytes.remove_prefix(end + 4);
            state = OPEN;
            got(UPGRADED, std::string_view());
        }
        while (bytes.size() >= 2 && state == OPEN) {
            const auto* head = reinterpret_cast<const unsigned char*>(bytes.data());
            size_t size = head[1] & 127;
            size_t start = 2;
            if (size >= 126) {
                start += size == 126 ? 2 : 8;
                if (bytes.size() < start) break;
                size = 0;
                for (size_t i = 2; i < start; i++) size = size << 8 | head[i];
            }
            if (bytes.size() < start + size) break;
            got(uint8_t(head[0] & 15), bytes.substr(start, size));
            bytes.remove_prefix(start + size);
        }
        in_.assign(bytes);
        return true;
    }

    static void mask(unsigned char* at, size_t size, uint32_t key) {
        const uint64_t wide = key | uint64_t(key) << 32;
        size_t i = 0;
        for (; i + 8 <= size; i += 8) {
            uint64_t word;
            memcpy(&word, at + i, 8);
            word ^= wide;
            memcpy(at + i, &word, 8);
        }
        for (; i < size; i++) at[i] ^= uint8_t(key >> 8 * (i & 3));
    }

    int fd_ = -1;
    size_t sent_ = 0;
    std::string in_;
    std::string out_;
};

}  // namespace bench
