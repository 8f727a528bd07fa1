// A single-threaded WebSocket load generator for signaling servers; prints one JSON line.
//
//   relay  closed loop: every pair keeps one message in flight
//   open   Poisson arrivals; latency counts from the time a message should have been sent
//   setup  calls one after the other: offer, answer, 10 candidates each way, one send() a frame
//   storm  how fast clients connect and join
//   idle   holds clients until a line comes on standard input
#include <sys/resource.h>

#include <cmath>
#include <map>

#include "load.hpp"

namespace bench {

class Run : Load {
  public:
    using Load::Load;

    int run() {
        const bool is_crowd = options_.mode == Mode::storm || options_.mode == Mode::idle;
        const int count = is_crowd ? options_.connections : 2 * options_.pairs;
        const Snapshot before = look();
        if (!connect_all(count)) return 1;
        const Snapshot spent = look() - before;
        address_partners();
        if (options_.mode == Mode::idle) return hold();
        if (options_.mode != Mode::storm) return measure();
        printf("{\"joins_per_s\":%.0f,\"joins_per_cpu_s\":%.0f,\"join_p50_us\":%.0f,\"join_p99_us\":%.0f,"
               "\"server_cpu\":%.3f,\"generator_cpu\":%.3f}\n",
               count / spent.time, count / spent.server, joins_.quantile(0.5) / 1e3, joins_.quantile(0.99) / 1e3,
               spent.server / spent.time, spent.own / spent.time);
        return errors_ != 0;
    }

  private:
    // Seconds: of the clock, of the server's CPU, of ours; and what was delivered.
    struct Snapshot {
        double time, server, own, delivered;

        Snapshot operator-(const Snapshot& other) const {
            return {time - other.time, server - other.server, own - other.own, delivered - other.delivered};
        }
    };

    Snapshot look() const {
        return {double(now_ns()) / 1e9, double(cpu_ns_of(options_.server_pid)) / 1e9, double(own_cpu_ns()) / 1e9,
                double(delivered_)};
    }

    int measure() {
        for (size_t i = 0; i < clients_.size(); i += 2) {
            if (options_.mode == Mode::relay) send_payload(clients_[i], CANDIDATE, now_ns(), 0);
            if (options_.mode == Mode::setup) start_call(clients_[i]);
        }
        flush();
        const uint64_t began = now_ns();
        next_arrival_ = double(began);
        pass_until(began + uint64_t(options_.warm_up * SECOND));
        is_measuring_ = true;
        latencies_.clear();
        const Snapshot before = look();
        pass_until(now_ns() + uint64_t(options_.seconds * SECOND));
        const Snapshot spent = look() - before;
        if (errors_ || spent.delivered == 0) return 1;
        printf("{\"messages_per_s\":%.0f,\"messages_per_cpu_s\":%.0f,\"p50_us\":%.1f,\"p99_us\":%.1f,"
               "\"calls_per_s\":%.1f,\"calls_per_cpu_s\":%.1f,\"call_p50_us\":%.0f,\"call_p99_us\":%.0f,"
               "\"server_cpu\":%.3f,\"generator_cpu\":%.3f}\n",
               spent.delivered / spent.time, spent.delivered / spent.server, latencies_.quantile(0.5) / 1e3,
               latencies_.quantile(0.99) / 1e3, double(calls_) / spent.time, double(calls_) / spent.server,
               call_times_.quantile(0.5) / 1e3, call_times_.quantile(0.99) / 1e3, spent.server / spent.time,
               spent.own / spent.time);
        return 0;
    }

    void pass_until(uint64_t end) {
        for (uint64_t now = now_ns(); now < end && !errors_; now = now_ns()) {
            if (options_.mode == Mode::open) arrive(now);
            poll(options_.mode == Mode::open ? 0 : 100);
        }
    }

    void arrive(uint64_t now) {
        for (int burst = 0; next_arrival_ <= double(now) && burst < 256; burst++) {
            Client& client = clients_[next_random() % clients_.size()];
            send_payload(client, CANDIDATE, uint64_t(next_arrival_), 0);
            const double uniform = double(next_random() >> 11) / 9007199254740992.0;
            next_arrival_ += -std::log(1 - uniform) * 1e9 / options_.rate;
        }
        flush();
    }

    // One message each comes first, so that buffers made at first use are counted.
    int hold() {
        for (Client& client : clients_) {
            send_payload(client, CANDIDATE, now_ns(), 0);
            if (client.id % 100 == 99) poll(0);
        }
        const uint64_t deadline = now_ns() + 20 * SECOND;
        while (delivered_ < clients_.size() && now_ns() < deadline && !errors_) poll(100);
        printf("{\"held\":%zu}\n", clients_.size());
        fflush(stdout);
        watch_stdin();
        while (!is_released_ && !errors_) poll(1000);
        return errors_ || delivered_ < clients_.size();
    }

    double next_arrival_ = 0;
};

Options read_options(int count, char** words) {
    std::map<std::string, std::string> given;
    for (int i = 1; i + 1 < count; i += 2) given[words[i]] = words[i + 1];
    const auto take = [&](const char* name, const char* otherwise) {
        const auto found = given.find(name);
        return found == given.end() ? std::string(otherwise) : found->second;
    };
    const std::map<std::string, Mode> modes = {{"relay", Mode::relay}, {"open", Mode::open}, {"setup", Mode::setup},
                                               {"storm", Mode::storm}, {"idle", Mode::idle}};
    const std::map<std::string, Dialect> dialects = {
        {"parley", Dialect::parley}, {"peerjs", Dialect::peerjs}, {"room", Dialect::room}};
    Options options;
    options.mode = modes.at(take("--mode", "relay"));
    options.dialect = dialects.at(take("--dialect", "room"));
    options.port = std::stoi(take("--port", "0"));
    options.server_pid = std::stoi(take("--pid", "0"));
    options.tokens_file = take("--tokens", "");
    options.pairs = std::stoi(take("--pairs", "100"));
    options.connections = std::stoi(take("--connections", "5000"));
    options.concurrency = std::stoi(take("--concurrency", "64"));
    options.seconds = std::stod(take("--seconds", "3"));
    options.warm_up = std::stod(take("--warm-up", "1"));
    options.rate = std::stod(take("--rate", "20000"));
    options.receipts = take("--receipts", "no") == "yes";
    return options;
}

}  // namespace bench

int main(int count, char** words) {
    rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    static bench::Run run(bench::read_options(count, words));
    return run.run();
}
