// The physical limit: a relay that does nothing but frames, rooms and a stamped sender, on epoll.
// It trusts its clients, parses no JSON, and knows the one handshake key that the generator sends.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace {

using Room = std::unordered_map<std::string, struct Client*>;

struct Client {
    int fd = -1;
    bool is_open = false;
    bool is_dirty = false;
    bool is_gone = false;
    std::string in, out, id, room_name;
    Room* room = nullptr;
};

std::unordered_map<std::string, Room> rooms;
std::vector<Client*> dirty, gone;

void mark(Client* client) {
    if (!client->is_dirty) dirty.push_back(client);
    client->is_dirty = true;
}

void put(Client* client, std::string_view first, std::string_view middle = {}, std::string_view last = {}) {
    const size_t size = first.size() + middle.size() + last.size();
    std::string& out = client->out;
    out.push_back(char(0x81));
    if (size < 126) {
        out.push_back(char(size));
    } else if (size < 65536) {
        out.append({char(126), char(size >> 8), char(size)});
    } else {
        out.push_back(127);
        for (int shift = 56; shift >= 0; shift -= 8) out.push_back(char(uint64_t(size) >> shift));
    }
    out.append(first).append(middle).append(last);
    mark(client);
}

std::string member(std::string_view message, std::string_view key) {
    const size_t start = message.find(key) + key.size();
    return std::string(message.substr(start, message.find('"', start) - start));
}

void handle(Client* client, std::string_view message) {
    const size_t to = message.find("\"to\":\"");
    if (to == message.npos) {
        client->room_name = member(message, "\"room\":\"");
        client->id = member(message, "\"id\":\"");
        client->room = &rooms[client->room_name];
        (*client->room)[client->id] = client;
        return put(client, "{\"type\":\"joined\"}");
    }
    const size_t end = message.find('"', to + 6);
    const auto target = client->room->find(std::string(message.substr(to + 6, end - to - 6)));
    if (target == client->room->end()) return;
    put(target->second, message.substr(0, to), "\"from\":\"" + client->id, message.substr(end));
}

void unmask(char* at, size_t size, const char* key) {
    uint32_t narrow;
    memcpy(&narrow, key, 4);
    const uint64_t wide = narrow | uint64_t(narrow) << 32;
    size_t i = 0;
    for (; i + 8 <= size; i += 8) {
        uint64_t word;
        memcpy(&word, at + i, 8);
        word ^= wide;
        memcpy(at + i, &word, 8);
    }
    for (; i < size; i++) at[i] ^= key[i & 3];
}

// Returns how many bytes were taken.
size_t take(Client* client, char* bytes, size_t size) {
    size_t at = 0;
    if (!client->is_open) {
        const size_t end = std::string_view(bytes, size).find("\r\n\r\n");
        if (end == std::string_view::npos) return 0;
        client->is_open = true;
        client->out =
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
        mark(client);
        at = end + 4;
    }
    while (size - at >= 6) {
        const auto* head = reinterpret_cast<unsigned char*>(bytes + at);
        size_t length = head[1] & 127;
        size_t start = 2;
        if (length >= 126) {
            start += length == 126 ? 2 : 8;
            if (size - at < start) break;
            length = 0;
            for (size_t i = 2; i < start; i++) length = length << 8 | head[i];
        }
        start += 4;
        if (size - at < start + length) break;
        char* payload = bytes + at + start;
        unmask(payload, length, payload - 4);
        if ((head[0] & 15) == 1) handle(client, {payload, length});
        at += start + length;
    }
    return at;
}

void leave(Client* client) {
    client->is_gone = true;
    close(client->fd);
    if (client->room) {
        client->room->erase(client->id);
        if (client->room->empty()) rooms.erase(client->room_name);
    }
    gone.push_back(client);
}

void receive(Client* client) {
    static char scratch[1 << 18];
    for (;;) {
        const ssize_t size = recv(client->fd, scratch, sizeof scratch, 0);
        if (size < 0 && errno == EAGAIN) return;
        if (size <= 0) return leave(client);
        if (client->in.empty()) {
            const size_t taken = take(client, scratch, size_t(size));
            client->in.assign(scratch + taken, size_t(size) - taken);
        } else {
            client->in.append(scratch, size_t(size));
            client->in.erase(0, take(client, client->in.data(), client->in.size()));
        }
        if (size_t(size) < sizeof scratch) return;
    }
}

void flush(Client* client) {
    client->is_dirty = false;
    if (client->is_gone) return;
    const ssize_t taken = send(client->fd, client->out.data(), client->out.size(), MSG_NOSIGNAL);
    if (taken > 0) client->out.erase(0, size_t(taken));
}

void accept_all(int listener, int epoll) {
    int fd;
    const int one = 1;
    while ((fd = accept4(listener, nullptr, nullptr, SOCK_NONBLOCK)) >= 0) {
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        auto* client = new Client;
        client->fd = fd;
        epoll_event wanted = {};
        wanted.events = EPOLLIN | EPOLLOUT | EPOLLET;
        wanted.data.ptr = client;
        epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &wanted);
    }
}

int listen_on_loopback() {
    const int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    bind(listener, reinterpret_cast<sockaddr*>(&address), size);
    listen(listener, 4096);
    getsockname(listener, reinterpret_cast<sockaddr*>(&address), &size);
    printf("{\"port\": %d}\n", ntohs(address.sin_port));
    fflush(stdout);
    return listener;
}

}  // namespace

int main() {
    rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    const int listener = listen_on_loopback();
    const int epoll = epoll_create1(0);
    epoll_event wanted = {};
    wanted.events = EPOLLIN;
    epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &wanted);
    for (;;) {
        epoll_event events[512];
        const int count = epoll_wait(epoll, events, 512, -1);
        for (int i = 0; i < count; i++) {
            auto* client = static_cast<Client*>(events[i].data.ptr);
            if (!client) {
                accept_all(listener, epoll);
            } else if (!client->is_gone) {
                if (events[i].events & EPOLLOUT && !client->out.empty()) mark(client);
                if (events[i].events & ~EPOLLOUT) receive(client);
            }
        }
        for (Client* client : dirty) flush(client);
        dirty.clear();
        for (Client* client : gone) delete client;
        gone.clear();
    }
}
