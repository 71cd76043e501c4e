#include "../cpu/regions.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <random>
#include <thread>
#include <vector>

namespace lr::test {
namespace {

struct Piece {
  unsigned char* data;
  size_t bytes;
  unsigned char mark;
  bool intact() const {
    return std::all_of(data, data + bytes, [this](unsigned char byte) { return byte == mark; });
  }
};

// Takes and gives back at random; every piece is filled, and nobody else may write to it.
void take_and_give(Regions& regions, uint32_t seed, int times) {
  std::mt19937 random(seed);
  std::vector<Piece> pieces;
  const auto give = [&](size_t i) {
    ASSERT_TRUE(pieces[i].intact());
    regions.give_back(pieces[i].data, pieces[i].bytes);
    pieces[i] = pieces.back();
    pieces.pop_back();
  };
  for (int i = 0; i < times; i++) {
    if (!pieces.empty() && random() % 5 < 2) give(random() % pieces.size());
    const size_t bytes = 1 + random() % (size_t{1} << (10 + random() % 12));
    Piece piece{static_cast<unsigned char*>(regions.take(bytes)), bytes, static_cast<unsigned char>(random())};
    ASSERT_NE(piece.data, nullptr);
    ASSERT_EQ(reinterpret_cast<uintptr_t>(piece.data) % Regions::kUnit, 0u);
    std::memset(piece.data, piece.mark, bytes);
    pieces.push_back(piece);
  }
  while (!pieces.empty()) give(random() % pieces.size());
}

TEST(Regions, PiecesAreApartAndAllGoBack) {
  Regions regions;
  for (uint32_t seed = 0; seed < 4; seed++) take_and_give(regions, seed, 150);
  EXPECT_EQ(regions.regions(), 0u);
}

TEST(Regions, ServeThreadsAtOnce) {
  Regions regions;
  std::vector<std::thread> threads;
  for (uint32_t seed = 0; seed < 4; seed++) threads.emplace_back([&regions, seed] { take_and_give(regions, seed, 80); });
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(regions.regions(), 0u);
}

TEST(Regions, WhatIsGivenBackSideBySideIsOneAgain) {
  Regions regions;
  constexpr size_t kPart = Regions::kBytes / 4;
  void* parts[4];
  for (void*& part : parts) part = regions.take(kPart);
  EXPECT_EQ(regions.regions(), 1u);
  regions.give_back(parts[1], kPart);
  regions.give_back(parts[3], kPart);
  void* const apart = regions.take(2 * kPart);
  EXPECT_EQ(regions.regions(), 2u) << "the free halves are not neighbours";
  regions.give_back(apart, 2 * kPart);
  regions.give_back(parts[2], kPart);
  EXPECT_EQ(regions.take(3 * kPart), parts[1]);
  EXPECT_EQ(regions.regions(), 1u);
  regions.give_back(parts[1], 3 * kPart);
  regions.give_back(parts[0], kPart);
  EXPECT_EQ(regions.regions(), 0u);
}

TEST(Regions, StandOnHugePages) {
  Regions regions;
  void* const whole = regions.take(Regions::kBytes);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(whole) % Regions::kHugePage, 0u);
  void* const unit = regions.take(1);
  EXPECT_EQ(regions.regions(), 2u);
  regions.give_back(whole, Regions::kBytes);
  regions.give_back(unit, 1);
  EXPECT_EQ(regions.regions(), 0u);
}

}  // namespace
}  // namespace lr::test
