// Time, and CPU time: our own, and that of the server under load.
#pragma once
#include <dirent.h>
#include <time.h>

#include <cstdint>
#include <cstdio>
#include <string>

namespace bench {

inline uint64_t read_clock(clockid_t id) {
    timespec at;
    clock_gettime(id, &at);
    return uint64_t(at.tv_sec) * 1'000'000'000ull + uint64_t(at.tv_nsec);
}

inline uint64_t now_ns() { return read_clock(CLOCK_MONOTONIC); }
inline uint64_t own_cpu_ns() { return read_clock(CLOCK_PROCESS_CPUTIME_ID); }

// Nanoseconds on a CPU of every thread of the process; clock ticks would be too coarse.
inline uint64_t cpu_ns_of(int pid) {
    const std::string tasks = "/proc/" + std::to_string(pid) + "/task";
    DIR* directory = opendir(tasks.c_str());
    if (!directory) return 0;
    uint64_t total = 0;
    while (dirent* entry = readdir(directory)) {
        if (entry->d_name[0] == '.') continue;
        const std::string path = tasks + "/" + entry->d_name + "/schedstat";
        if (FILE* file = fopen(path.c_str(), "r")) {
            unsigned long long spent = 0;
            if (fscanf(file, "%llu", &spent) == 1) total += spent;
            fclose(file);
        }
    }
    closedir(directory);
    return total;
}

}  // namespace bench
