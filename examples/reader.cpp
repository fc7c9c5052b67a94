// reader.cpp - a program in C++ that reads frames in place, each owned by an object.
//
//     include=$(python3 -c "import billiards_shm; print(billiards_shm.get_include())")
//     cc -O2 -c -I"$include" "$include"/*.c "$include"/platform/*.c
//     c++ -O2 -I"$include" reader.cpp *.o -pthread -o reader
//     ./reader billiards_video 100

#include "billiards_shm.h"

#include <cstdlib>
#include <iostream>
#include <memory>
#include <numeric>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace
{

class Frame
{
  public:
    explicit Frame(const bshm_frame &held) : held_(held)
    {
    }
    Frame(Frame &&other) noexcept : held_(std::exchange(other.held_, bshm_frame{}))
    {
    }
    Frame &operator=(Frame &&) = delete;
    ~Frame()
    {
        bshm_frame_release(&held_); // does nothing for an empty one
    }

    const bshm_frame_info &info() const
    {
        return held_.info;
    }

    std::size_t row_bytes() const
    {
        return std::size_t{info().width} * info().channels * info().item_size;
    }

    // In place if a lease is free, else a copy; nothing if a newer frame overwrote it during the copy.
    std::optional<double> mean() const
    {
        const auto *pixels = static_cast<const std::uint8_t *>(held_.pixels);
        std::size_t stride = info().row_stride;
        std::vector<std::uint8_t> copy;
        if (!pixels) {
            copy.resize(row_bytes() * info().height);
            if (bshm_frame_copy(&held_, copy.data(), copy.size()) != BSHM_OK)
                return std::nullopt;
            pixels = copy.data();
            stride = row_bytes();
        }
        std::uint64_t sum = 0;
        for (std::uint32_t y = 0; y < info().height; ++y, pixels += stride)
            sum = std::accumulate(pixels, pixels + row_bytes(), sum);
        return static_cast<double>(sum) / static_cast<double>(row_bytes() * info().height);
    }

  private:
    bshm_frame held_;
};

class Reader
{
  public:
    explicit Reader(const char *name)
    {
        bshm_reader_options options{};
        options.max_leases = 2;
        bshm_reader *created = nullptr;
        check(bshm_reader_create(&created, name, &options, &error_));
        reader_.reset(created);
    }

    // Waits for the next frame; nothing once the writer has closed.
    std::optional<Frame> next()
    {
        for (;;) {
            bshm_frame frame;
            if (check(bshm_reader_acquire(reader_.get(), 0, &frame, &error_)) == BSHM_FOUND)
                return Frame(frame);
            if (bshm_reader_ended(reader_.get()))
                return std::nullopt;
            bshm_reader_wait(reader_.get(), 100'000'000);
        }
    }

  private:
    int check(int rc) const
    {
        if (rc < 0)
            throw std::runtime_error(error_.message);
        return rc;
    }

    struct Free {
        void operator()(bshm_reader *reader) const
        {
            bshm_reader_free(reader);
        }
    };
    std::unique_ptr<bshm_reader, Free> reader_;
    bshm_error error_{};
};

} // namespace

int main(int argc, char **argv)
try {
    if (argc < 2) {
        std::cerr << "usage: " << argv[0] << " NAME [FRAMES]\n";
        return 2;
    }
    const unsigned long wanted = argc > 2 ? std::strtoul(argv[2], nullptr, 10) : 0; // 0: until the writer closes
    Reader reader(argv[1]);
    for (unsigned long shown = 0; wanted == 0 || shown < wanted; ++shown) {
        const auto frame = reader.next();
        if (!frame)
            break;
        const auto &info = frame->info();
        std::cout << info.sequence << ": " << info.width << " x " << info.height << " x " << info.channels << ", mean "
                  << std::to_string(frame->mean().value_or(-1)) << std::endl;
    }
    return 0;
} catch (const std::exception &error) {
    std::cerr << error.what() << '\n';
    return 1;
}
