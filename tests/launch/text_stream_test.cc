#include "launch/run/text_stream.h"

#include <gtest/gtest.h>

#include "launch/results/record.h"
#include "launch/run/progress.h"

namespace restkv {
namespace {

/// Feeds `text` in pieces of `size` bytes and returns all that comes out.
std::string filtered(const std::string& text, const std::vector<std::string>& stops, size_t size, bool* stopped) {
  StopFilter filter(stops);
  std::string out;
  for (size_t i = 0; i < text.size(); i += size) out += filter.push(text.substr(i, size));
  if (!filter.stopped()) out += filter.finish();
  *stopped = filter.stopped();
  return out;
}

TEST(StopFilter, TheSameHoweverTheTextComes) {
  struct Case {
    std::string text;
    std::vector<std::string> stops;
    std::string expected;
    bool stopped;
  };
  std::vector<Case> cases = {
      {"hello world", {}, "hello world", false},
      {"one. two", {"."}, "one", true},
      {"a\n\nb", {"\n\n"}, "a", true},
      {"a\nb\n", {"\n\n"}, "a\nb\n", false},  // a beginning of a stop is held, then shown
      {"aaab", {"aab"}, "a", true},           // overlapping beginnings
      {"abcabd", {"abd", "xyz"}, "abc", true},
      {"xENDy", {"END", "E"}, "x", true},  // the earliest
      {"", {"x"}, "", false},
  };
  for (const Case& c : cases)
    for (size_t size : {1u, 2u, 3u, 100u}) {
      bool stopped = false;
      std::string out = filtered(c.text, c.stops, size, &stopped);
      // With pieces larger than a stop, a later but longer stop cannot win over an earlier one.
      EXPECT_EQ(out, c.expected) << c.text << " in pieces of " << size;
      EXPECT_EQ(stopped, c.stopped) << c.text;
    }
}

TEST(StopFilter, ShowsTextAsSoonAsItCannotBeAStop) {
  StopFilter filter({"END"});
  EXPECT_EQ(filter.push("abE"), "ab");
  EXPECT_EQ(filter.push("N"), "");
  EXPECT_EQ(filter.push("x"), "ENx");
  EXPECT_EQ(filter.push("EN"), "");
  EXPECT_EQ(filter.finish(), "EN");
}

TEST(Progress, Line) {
  EXPECT_EQ(progress_line("load", 0, 10, 0.0), "load     [..............................]   0%  0.0 s");
  EXPECT_EQ(progress_line("prefill", 5, 10, 1.25), "prefill  [###############...............]  50%  1.2 s");
  EXPECT_EQ(progress_line("prefill", 30, 30, 2.0), "prefill  [##############################] 100%  2.0 s");
  EXPECT_EQ(progress_line("x", 0, 0, 0.0).substr(0, 10), "x        [");
}

TEST(Bytes, AreReadable) {
  EXPECT_EQ(format_bytes(0), "0 B");
  EXPECT_EQ(format_bytes(1023), "1023 B");
  EXPECT_EQ(format_bytes(1536), "1.5 KiB");
  EXPECT_EQ(format_bytes(int64_t{3} << 40), "3.0 TiB");
}

}  // namespace
}  // namespace restkv
