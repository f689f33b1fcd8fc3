#include "model/tensor_transfer.h"

#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>
#include <span>
#include <string>
#include <thread>

#include "model/tensor_conversion.h"

namespace fla {
namespace {

constexpr int64_t kPieceBytes = 4 << 20;     // as held
constexpr int64_t kStagingBytes = 64 << 20;  // that a round of a GPU's transfer fills
constexpr unsigned kMaxThreads = 8;  // enough for the fastest disks; memory is the next bound

}  // namespace

// Threads that fill host memory, for the time of one round.
class TensorTransfer::Workers {
 public:
  Workers(int64_t total_bytes, const std::function<void(double)>& progress)
      : threads_(std::clamp(std::thread::hardware_concurrency(), 1u, kMaxThreads)),
        total_bytes_(std::max<int64_t>(total_bytes, 1)),
        progress_(progress) {}

  // Fills the targets of all jobs. Throws what the first job to fail threw, or `progress`.
  void Run(std::span<const Job> jobs) {
    next_ = 0;
    jobs_ = jobs;
    std::vector<std::thread> others;
    for (size_t i = 1; i < std::min<size_t>(threads_, jobs.size()); ++i) {
      others.emplace_back([this] { Work({}); });
    }
    Work(progress_);
    for (std::thread& other : others) other.join();
    if (error_ != nullptr) std::rethrow_exception(error_);
  }

 private:
  void Work(const std::function<void(double)>& progress) {
    std::vector<char> stored;
    try {
      for (size_t i = next_++; i < jobs_.size(); i = next_++) {
        Fill(jobs_[i], stored);
        done_bytes_ += jobs_[i].piece->stored_bytes();
        if (progress) {
          progress(static_cast<double>(done_bytes_) / static_cast<double>(total_bytes_));
        }
      }
    } catch (...) {
      next_ = jobs_.size();
      const std::lock_guard lock(mutex_);
      if (error_ == nullptr) error_ = std::current_exception();
    }
  }

  static void Fill(const Job& job, std::vector<char>& stored) {
    const Piece& piece = *job.piece;
    const StoredTensor& tensor = *piece.tensor;
    const int64_t offset = tensor.offset + piece.first * SizeOf(tensor.dtype);
    const auto bytes = static_cast<size_t>(piece.stored_bytes());
    if (IsStoredAs(tensor, piece.held)) return tensor.source->Read(offset, {job.target, bytes});
    if (stored.size() < bytes) stored.resize(bytes);
    tensor.source->Read(offset, {stored.data(), bytes});
    ConvertElements(tensor, piece.first, piece.count, stored.data(), piece.held, job.target);
  }

  const size_t threads_;
  const int64_t total_bytes_;
  const std::function<void(double)>& progress_;
  std::span<const Job> jobs_;
  std::atomic<size_t> next_ = 0;
  std::atomic<int64_t> done_bytes_ = 0;
  std::mutex mutex_;
  std::exception_ptr error_;
};

void TensorTransfer::Add(const StoredTensor& tensor, DType held, void* target) {
  const auto size = static_cast<int64_t>(SizeOf(held));
  const int64_t most = kPieceBytes / size;
  for (int64_t first = 0; first < tensor.elements; first += most) {
    pieces_.push_back({&tensor, held, first, std::min(most, tensor.elements - first),
                       static_cast<char*>(target) + first * size});
  }
}

void TensorTransfer::Run(Stream& stream, const std::function<void(double)>& progress) {
  const auto place = [](const Piece& piece) {
    return std::pair(std::string_view{piece.tensor->file()},
                     piece.tensor->offset + piece.first * SizeOf(piece.tensor->dtype));
  };
  std::stable_sort(pieces_.begin(), pieces_.end(),
                   [&](const Piece& a, const Piece& b) { return place(a) < place(b); });
  int64_t total = 0;
  for (const Piece& piece : pieces_) total += piece.stored_bytes();
  Workers workers(total, progress);
  if (staged_) {
    RunThroughStaging(stream, workers);
  } else {
    std::vector<Job> jobs;
    for (const Piece& piece : pieces_) jobs.push_back({&piece, piece.target});
    workers.Run(jobs);
  }
  if (progress) progress(1.0);  // what the other threads did last, it has not heard
  pieces_.clear();
}

// Two buffers take turns: one is filled while the other is copied.
void TensorTransfer::RunThroughStaging(Stream& stream, Workers& workers) {
  struct Round {
    HostBuffer memory;
    Fence copied;
  };
  const Device device = stream.device();
  Round rounds[2] = {{{device, kStagingBytes}, Fence(device)},
                     {{device, kStagingBytes}, Fence(device)}};
  for (size_t begin = 0, turn = 0; begin < pieces_.size(); turn = 1 - turn) {
    Round& round = rounds[turn];
    round.copied.Wait();
    std::vector<Job> jobs;
    int64_t filled = 0;
    for (size_t i = begin; i < pieces_.size() && filled + kPieceBytes <= kStagingBytes; ++i) {
      jobs.push_back({&pieces_[i], round.memory.data() + filled});
      filled += pieces_[i].held_bytes();
    }
    workers.Run(jobs);
    for (const Job& job : jobs) {
      stream.CopyToDevice(job.piece->target, job.target,
                          static_cast<size_t>(job.piece->held_bytes()));
    }
    round.copied.Record(stream);
    begin += jobs.size();
  }
  stream.Synchronize();
}

}  // namespace fla
