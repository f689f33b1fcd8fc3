#include "server/writer_thread.h"

#include <gtest/gtest.h>

#include <memory>
#include <thread>
#include <vector>

namespace fla {
namespace {

TEST(WriterThread, RunsAllWorkOfEachPosterInOrder) {
  constexpr int kPosters = 4, kEach = 2000;
  std::vector<std::vector<int>> seen(kPosters);  // written by the writer thread alone
  {
    WriterThread writer;
    std::vector<std::thread> posters;
    for (int p = 0; p < kPosters; ++p) {
      posters.emplace_back([&, p] {
        for (int i = 0; i < kEach; ++i) writer.Post([&seen, p, i] { seen[p].push_back(i); });
      });
    }
    for (std::thread& poster : posters) poster.join();
  }
  for (int p = 0; p < kPosters; ++p) {
    ASSERT_EQ(seen[p].size(), static_cast<size_t>(kEach));
    for (int i = 0; i < kEach; ++i) ASSERT_EQ(seen[p][i], i);
  }
}

TEST(WriterThread, WorkMayPostWorkAndFreesWhatItHolds) {
  const auto held = std::make_shared<int>(0);
  {
    WriterThread writer;
    writer.Post([&writer, held] { writer.Post([held] { ++*held; }); });
  }
  EXPECT_EQ(*held, 1);
  EXPECT_EQ(held.use_count(), 1);
}

}  // namespace
}  // namespace fla
