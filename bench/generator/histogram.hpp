// Quantiles of latencies in fixed memory: 128 buckets for each power of two, so within 0.8 %.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

namespace bench {

class Histogram {
  public:
    void add(uint64_t value) {
        buckets_[index_of(value)]++;
        count_++;
    }

    double quantile(double share) const {
        if (!count_) return 0;
        const auto wanted = uint64_t(std::ceil(share * double(count_)));
        uint64_t seen = 0;
        for (size_t i = 0; i < buckets_.size(); i++) {
            seen += buckets_[i];
            if (seen >= wanted) return middle_of(i);
        }
        return 0;
    }

    void clear() {
        std::fill(buckets_.begin(), buckets_.end(), 0);
        count_ = 0;
    }

  private:
    static size_t index_of(uint64_t value) {
        if (value < 128) return size_t(value);
        const int octave = 63 - __builtin_clzll(value);
        return size_t(octave - 6) * 128 + ((value >> (octave - 7)) & 127);
    }

    static double middle_of(size_t index) {
        if (index < 128) return double(index);
        const int octave = int(index / 128) + 6;
        const double low = double((index & 127) | 128) * std::pow(2, octave - 7);
        return low + std::pow(2, octave - 8);
    }

    std::vector<uint64_t> buckets_ = std::vector<uint64_t>(64 * 128);
    uint64_t count_ = 0;
};

}  // namespace bench
