#include <random>

#include "model/weights/gguf_file.h"
#include "model/weights/tensor_table.h"
#include "tests/model/weight_files.h"

namespace restkv::testing {
namespace {

/// One F32 tensor [2, 8] and one Q8_0 tensor [1, 32], and a key of every kind.
GgufBytes sample() {
  GgufBytes g;
  g.key("general.architecture", std::string("test")).key("n", uint32_t{7}).key("x", 0.5f);
  g.key("big", 10, raw<uint64_t>(~uint64_t{0})).key("minus", 5, raw<int32_t>(-3)).key("yes", 7, raw<uint8_t>(1));
  g.key("words", 9, raw<uint32_t>(8) + raw<uint64_t>(2) + GgufBytes::text("ab") + GgufBytes::text(""));
  g.key("ids", 9, raw<uint32_t>(5) + raw<uint64_t>(2) + raw<int32_t>(4) + raw<int32_t>(-5));
  g.key("scores", 9, raw<uint32_t>(6) + raw<uint64_t>(1) + raw(2.5f));
  g.tensor("m", {8, 2}, 0, 0).tensor("q", {32}, 8, 64);
  return g;
}

std::string sample_data() {
  std::vector<float> m(16);
  for (size_t i = 0; i < m.size(); ++i) m[i] = static_cast<float>(i);
  std::vector<int8_t> q(32);
  for (size_t i = 0; i < q.size(); ++i) q[i] = static_cast<int8_t>(i) - 16;
  return raw(m) + raw<uint16_t>(0x3800) + raw(q);  // scale 0.5
}

TEST(Gguf, MetadataIsTyped) {
  TemporaryDirectory dir;
  GgufFile file(dir.write("a.gguf", sample().bytes(sample_data())));
  EXPECT_EQ(file.keys().size(), 9u);
  EXPECT_EQ(file.get_string("general.architecture"), "test");
  EXPECT_EQ(file.get_string("none", "other"), "other");
  EXPECT_EQ(file.get_integer("n"), 7);
  EXPECT_EQ(file.get_integer("minus"), -3);
  EXPECT_EQ(file.get_integer("none", 9), 9);
  EXPECT_EQ(file.get_number("x"), 0.5);
  EXPECT_EQ(file.get_number("n"), 7.0);
  EXPECT_TRUE(file.get_bool("yes", false));
  EXPECT_EQ(file.get_strings("words"), (std::vector<std::string>{"ab", ""}));
  EXPECT_EQ(file.get_integers("ids"), (std::vector<int64_t>{4, -5}));
  EXPECT_EQ(file.get_floats("scores"), (std::vector<float>{2.5f}));

  std::string path = file.path();
  expect_input_error([&] { file.get_integer("none"); }, {path, "key none is missing", "an integer"});
  expect_input_error([&] { file.get_integer("x"); }, {path, "key x", "found 0.5 (f32)", "an integer"});
  expect_input_error([&] { file.get_integer("big"); }, {path, "key big", "18446744073709551615"});
  expect_input_error([&] { file.get_string("n"); }, {path, "key n", "found 7 (u32)", "a string"});
  expect_input_error([&] { file.get_integer("words"); }, {path, "key words", "a list of 2 string values"});
  expect_input_error([&] { file.get_strings("ids"); }, {path, "key ids", "a list of 2 i32 values", "strings"});
  expect_input_error([&] { file.get_bool("n", true); }, {path, "key n", "a bool"});
  expect_input_error([&] { file.get_floats("words"); }, {path, "key words", "f32"});
  expect_input_error([&] { file.get_integers("general.architecture"); }, {path, "\"test\"", "a list of integers"});
}

TEST(Gguf, TensorsAndVersion2) {
  TemporaryDirectory dir;
  GgufBytes g = sample();
  g.version = 2;
  GgufFile file(dir.write("a.gguf", g.bytes(sample_data())));
  TensorTable table(file.path(), file.tensors());
  EXPECT_EQ(table.info("m").shape, (Shape{2, 8}));
  EXPECT_EQ(read_f32(table, "m", {1, 2}, {2, 4}), (std::vector<float>{10, 11}));
  EXPECT_EQ(read_f32(table, "q", {0, 1}, {0, 3}), (std::vector<float>{-8, -7.5f, -7}));
  EXPECT_EQ(file.read_vector(*file.find_tensor("m")).size(), 16u);
  EXPECT_EQ(file.find_tensor("none"), nullptr);
}

TEST(Gguf, LyingHeadersAreNamed) {
  TemporaryDirectory dir;
  std::string data = sample_data();
  auto expect = [&](const GgufBytes& g, std::vector<std::string> parts) {
    std::string path = dir.write("bad.gguf", g.bytes(data));
    parts.push_back(path);
    expect_input_error([&] { GgufFile file(path); }, parts);
  };
  auto edited = [](auto edit) {
    GgufBytes g = sample();
    edit(g);
    return g;
  };
  expect(edited([](auto& g) { g.version = 1; }), {"GGUF version 1", "2 and 3"});
  expect(edited([](auto& g) { g.version = 0x03000000; }), {"big-endian"});
  expect(edited([](auto& g) { g.tensor_count = ~uint64_t{0}; }), {"the number of tensors is 18446744073709551615"});
  expect(edited([](auto& g) { g.value_count = 1'000'000; }), {"the number of metadata keys is 1000000"});
  expect(edited([](auto& g) { g.key("n", uint32_t{8}); }), {"key n occurs twice"});
  expect(edited([](auto& g) { g.key("odd", 13, ""); }), {"the type of key odd is 13", "0 to 12"});
  expect(edited([](auto& g) { g.key("deep", 9, raw<uint32_t>(9) + raw<uint64_t>(1)); }),
         {"key deep", "array of arrays"});
  expect(edited([](auto& g) { g.key("long", 9, raw<uint32_t>(10) + raw<uint64_t>(uint64_t{1} << 61)); }),
         {"elements of key long", "at most"});
  expect(edited([](auto& g) { g.key("text", 8, raw<uint64_t>(uint64_t{1} << 63)); }), {"key text needs"});
  expect(edited([](auto& g) { g.key("general.alignment", uint32_t{0}); }), {"general.alignment", "found 0"});
  expect(edited([](auto& g) { g.key("general.alignment", uint32_t{48}); }), {"general.alignment", "found 48"});
  expect(edited([](auto& g) { g.key("split.count", uint32_t{3}); }), {"one of 3 parts"});
  expect(edited([](auto& g) { g.key(std::string(70000, 'k'), uint32_t{1}); }), {"metadata key 9 is 70000 bytes long"});
  expect(edited([](auto& g) { g.tensor("", {8}, 0, 128); }), {"the name of tensor 2 is 0 bytes long"});
  expect(edited([](auto& g) { g.tensor("t", {}, 0, 0); }), {"tensor t has 0 dimensions"});
  expect(edited([](auto& g) { g.tensor("t", {1, 1, 1, 1, 1}, 0, 0); }), {"tensor t has 5 dimensions"});
  expect(edited([](auto& g) { g.tensor("t", {8}, 99, 128); }), {"tensor t has the unknown type 99", "Q4_1"});
  expect(edited([](auto& g) { g.tensor("t", {33}, 8, 128); }), {"tensor t has shape [33] of Q8_0", "32 elements"});
  expect(edited([](auto& g) { g.tensor("t", {uint64_t{1} << 62, 8}, 0, 128); }), {"tensor t has shape"});
  expect(edited([](auto& g) { g.tensor("t", {~uint64_t{0}}, 0, 128); }), {"tensor t", "18446744073709551615"});
  expect(edited([](auto& g) { g.tensor("t", {8}, 0, 96); }), {"tensor t", "beyond the file"});
  expect(edited([](auto& g) { g.tensor("t", {8}, 0, ~uint64_t{0} - 31); }), {"tensor t begins 18446744073709551584"});
  expect(edited([](auto& g) { g.tensor("t", {8}, 0, 33); }), {"tensor t", "offset 33", "alignment 32"});
  expect(edited([](auto& g) { g.tensor("t", {8}, 0, 32); }), {"overlaps another tensor"});
  expect(edited([](auto& g) { g.tensor("m", {0}, 0, 0); }), {"two tensors are named m"});
}

TEST(Gguf, UnreadableTypesAreRefusedOnRead) {
  TemporaryDirectory dir;
  GgufBytes g;
  g.tensor("t", {256}, 10, 0);
  GgufFile file(dir.write("a.gguf", g.bytes(std::string(84, '\0'))));
  TensorTable table(file.path(), file.tensors());
  expect_input_error([&] { read_f32(table, "t", {0, 1}, {0, 256}); }, {file.path(), "tensor t", "Q2_K", "Q4_K"});
}

TEST(Gguf, NotAGgufFile) {
  TemporaryDirectory dir;
  expect_input_error([&] { GgufFile file(dir.write("a.gguf", "GGML and more bytes")); }, {"not a GGUF file"});
  expect_input_error([&] { GgufFile file(dir.write("a.gguf", "")); }, {"a.gguf", "truncated"});
  expect_input_error([&] { GgufFile file(dir.path().string()); }, {"not a regular file"});
}

TEST(Gguf, EveryTruncationIsAnError) {
  TemporaryDirectory dir;
  std::string bytes = sample().bytes(sample_data());
  for (size_t cut = 0; cut < bytes.size(); ++cut) {
    std::string path = dir.write("cut.gguf", bytes.substr(0, cut));
    expect_input_error([&] { GgufFile file(path); }, {path});
  }
}

TEST(Gguf, DamagedHeadersLoadOrThrow) {
  TemporaryDirectory dir;
  std::string data = sample_data();
  const std::string good = sample().bytes(data);
  std::mt19937 engine(5);
  int refused = 0, loaded = 0;
  for (int i = 0; i < 3000; ++i) {
    std::string bytes = good;
    for (int flips = 1 + static_cast<int>(engine() % 3); flips > 0; --flips)
      bytes[engine() % (good.size() - data.size())] = static_cast<char>(engine());
    std::string path = dir.write("fuzz.gguf", bytes);
    try {
      GgufFile file(path);
      for (const StoredTensor& t : file.tensors())
        if (t.encoding != nullptr) file.read_vector(t);
      for (const std::string& key : file.keys()) EXPECT_THROW(file.reject(key, "nothing is allowed"), InputError);
      ++loaded;
    } catch (const InputError& e) {
      ++refused;
      EXPECT_NE(std::string(e.what()).find(path), std::string::npos) << e.what();
    }
  }
  EXPECT_GT(refused, 500);
  EXPECT_GT(loaded, 100);
}

}  // namespace
}  // namespace restkv::testing
