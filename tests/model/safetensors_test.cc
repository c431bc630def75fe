#include "model/weights/safetensors.h"

#include <filesystem>
#include <random>

#include "tests/model/weight_files.h"

namespace restkv::testing {
namespace {

/// Three tensors: a [3, 4] F32, b [2, 2] BF16, c [4] F16.
struct Sample {
  std::vector<float> a{0, 1, 2, 3, 10, 11, 12, 13, 20, 21, 22, 23};
  std::string header = R"({"__metadata__":{"format":"pt"},)"
                       R"("a":{"dtype":"F32","shape":[3,4],"data_offsets":[0,48]},)"
                       R"("b":{"dtype":"BF16","shape":[2,2],"data_offsets":[48,56]},)"
                       R"("c":{"dtype":"F16","shape":[4],"data_offsets":[56,64]}})";
  std::string data = raw(a) + raw(std::vector<uint16_t>{0x3f80, 0x4000, 0xc040, 0x0000}) +
                     raw(std::vector<uint16_t>{0x3c00, 0xc000, 0x0001, 0x7bff});
  std::string bytes() const { return safetensors_bytes(header, data); }
};

TEST(Safetensors, ReadsSlicesInBothTypes) {
  TemporaryDirectory dir;
  auto w = open_safetensors(dir.write("model.safetensors", Sample().bytes()));
  EXPECT_EQ(w->list().size(), 3u);
  EXPECT_TRUE(w->contains("a"));
  EXPECT_FALSE(w->contains("__metadata__"));
  EXPECT_EQ(w->info("a").shape, (Shape{3, 4}));
  EXPECT_EQ(w->info("b").stored_bytes, 8);
  EXPECT_EQ(w->natural_dtype("a"), DType::f32);
  EXPECT_EQ(w->natural_dtype("b"), DType::bf16);
  EXPECT_EQ(w->natural_dtype("c"), DType::f32);
  EXPECT_EQ(read_f32(*w, "a", {1, 3}, {1, 3}), (std::vector<float>{11, 12, 21, 22}));
  EXPECT_EQ(read_f32(*w, "b", {0, 2}, {0, 2}), (std::vector<float>{1, 2, -3, 0}));
  EXPECT_EQ(read_bf16(*w, "b", {1, 2}, {0, 1})[0].bits, 0xc040);
  EXPECT_EQ(read_f32(*w, "c", {0, 1}, {0, 4}), (std::vector<float>{1, -2, 0x1p-24f, 65504}));
  EXPECT_EQ(read_bf16(*w, "a", {2, 3}, {3, 4})[0].bits, to_bf16(23.0f).bits);
  expect_input_error([&] { w->info("d"); }, {dir.file("model.safetensors"), "no tensor d"});
  EXPECT_THROW(read_f32(*w, "a", {0, 4}, {0, 4}), RuntimeFailure);
}

// bf16 held as bf16 is copied past the map.
TEST(Safetensors, CopiesWholeRowsAndPartsOfRows) {
  TemporaryDirectory dir;
  auto w = open_safetensors(dir.write("model.safetensors", Sample().bytes()));
  auto floats = [&](Range rows, Range cols) {
    std::vector<float> values;
    for (bf16 x : read_bf16(*w, "b", rows, cols)) values.push_back(to_float(x));
    return values;
  };
  EXPECT_EQ(floats({0, 2}, {0, 2}), (std::vector<float>{1, 2, -3, 0}));
  EXPECT_EQ(floats({1, 2}, {0, 2}), (std::vector<float>{-3, 0}));
  EXPECT_EQ(floats({0, 2}, {1, 2}), (std::vector<float>{2, 0}));
}

TEST(Safetensors, FileThatShrinksWhileOpenIsNamed) {
  TemporaryDirectory dir;
  const std::string bytes = Sample().bytes();
  auto w = open_safetensors(dir.write("model.safetensors", bytes));
  std::filesystem::resize_file(dir.file("model.safetensors"), bytes.size() - 12);  // b lies before the last 8 bytes
  expect_input_error([&] { read_bf16(*w, "b", {0, 2}, {0, 2}); }, {dir.file("model.safetensors"), "ends at byte"});
}

TEST(Safetensors, LyingHeadersAreNamed) {
  TemporaryDirectory dir;
  Sample good;
  struct Case {
    const char *from, *to;
    std::vector<std::string> parts;
  };
  const std::vector<Case> cases{
      {"[0,48]", "[0,44]", {"tensor a", "44 bytes", "needs 48"}},
      {"[0,48]", "[48,0]", {"tensor a", "begin <= end"}},
      {"[0,48]", "[0,48,3]", {"tensor a", "[begin, end]"}},
      {"[0,48]", "[-4,44]", {"tensor a", "data_offsets holds -4"}},
      {"[56,64]", "[60,68]", {"tensor c", "beyond the file", "64 bytes of data"}},
      {"[48,56]", "[44,52]", {"tensor b", "overlap", "4 bytes"}},
      {"[3,4]", "[3,4,1,9]", {"tensor a", "needs 432"}},
      {"[3,4]", "[-3,-4]", {"tensor a", "shape holds -3"}},
      {"[3,4]", "[3.0,4]", {"tensor a", "shape holds 3.0"}},
      {"[3,4]", "[4611686018427387904,4]", {"tensor a", "overflows"}},
      {"[3,4]", "[18446744073709551615,4]", {"tensor a", "shape holds 18446744073709551615"}},
      {"[3,4]", "12", {"tensor a", "shape must be a list"}},
      {"\"F32\"", "\"F4\"", {"tensor a", "dtype is F4", "F32, F16, BF16"}},
      {"\"F32\"", "7", {"tensor a", "dtype must be a string"}},
      {"\"b\"", "\"a\"", {"\"a\" occurs twice"}},
      {"{\"dtype\":\"BF16\",\"shape\":[2,2],\"data_offsets\":[48,56]}", "5", {"tensor b", "an object is needed"}},
      {"}}", "}", {"not valid JSON"}},
      {"\"c\":{\"dtype\":\"F16\",\"shape\":[4],\"data_offsets\":[56,64]}",
       "\"c\":{\"dtype\":\"F16\",\"shape\":[3],\"data_offsets\":[56,62]}",
       {"2 bytes at the end"}},
      {"\"b\":{\"dtype\":\"BF16\",\"shape\":[2,2],\"data_offsets\":[48,56]},", "", {"tensor c", "leave 8 bytes"}},
  };
  for (const Case& c : cases) {
    std::string header = good.header;
    size_t at = header.find(c.from);
    ASSERT_NE(at, std::string::npos) << c.from;
    header.replace(at, std::string(c.from).size(), c.to);
    std::string path = dir.write("bad.safetensors", safetensors_bytes(header, good.data));
    SCOPED_TRACE(std::string(c.from) + " -> " + c.to);
    std::vector<std::string> parts = c.parts;
    parts.push_back(path);
    expect_input_error([&] { open_safetensors(path); }, parts);
  }
}

TEST(Safetensors, TypesThatCannotBeReadAreRefusedOnRead) {
  TemporaryDirectory dir;
  std::string header = R"({"ids":{"dtype":"I64","shape":[1],"data_offsets":[0,8]}})";
  auto w = open_safetensors(dir.write("x.safetensors", safetensors_bytes(header, raw<int64_t>(3))));
  expect_input_error([&] { read_f32(*w, "ids", {0, 1}, {0, 1}); }, {"tensor ids", "I64", "F32, F16, BF16"});
}

TEST(Safetensors, HeaderLengthIsChecked) {
  TemporaryDirectory dir;
  Sample good;
  for (uint64_t length : {uint64_t{1} << 63, ~uint64_t{0}, uint64_t{100'000'001}, good.bytes().size() - 7}) {
    std::string bytes = raw(length) + good.header + good.data;
    std::string path = dir.write("bad.safetensors", bytes);
    expect_input_error([&] { open_safetensors(path); }, {path, "header's length is " + std::to_string(length)});
  }
}

TEST(Safetensors, EveryTruncationIsAnError) {
  TemporaryDirectory dir;
  std::string bytes = Sample().bytes();
  for (size_t cut = 0; cut < bytes.size(); ++cut) {
    std::string path = dir.write("cut.safetensors", bytes.substr(0, cut));
    expect_input_error([&] { open_safetensors(path); }, {path});
  }
}

TEST(Safetensors, DamagedHeadersLoadOrThrow) {
  TemporaryDirectory dir;
  Sample good;
  std::mt19937 engine(11);
  int refused = 0;
  for (int i = 0; i < 1500; ++i) {
    std::string bytes = good.bytes();
    for (int flips = 1 + static_cast<int>(engine() % 3); flips > 0; --flips)
      bytes[engine() % (8 + good.header.size())] = static_cast<char>(engine());
    std::string path = dir.write("fuzz.safetensors", bytes);
    try {
      auto w = open_safetensors(path);
      for (const WeightInfo& info : w->list())
        if (info.shape.size() == 2) read_f32(*w, info.name, {0, info.shape[0]}, {0, info.shape[1]});
    } catch (const InputError& e) {
      ++refused;
      EXPECT_NE(std::string(e.what()).find(path), std::string::npos) << e.what();
    }
  }
  EXPECT_GT(refused, 1000);
}

TEST(Safetensors, ShardsThroughTheIndex) {
  auto w = open_safetensors(RESTKV_TEST_DATA "/tiny_llama");
  EXPECT_EQ(w->list().size(), 21u);
  EXPECT_EQ(w->info("lm_head.weight").encoding, "BF16");
  EXPECT_NE(w->describe().find("model.safetensors.index.json"), std::string::npos);
}

TEST(Safetensors, BadIndexesAreNamed) {
  TemporaryDirectory dir;
  dir.write("one.safetensors", Sample().bytes());
  auto open = [&](const std::string& index) {
    dir.write("model.safetensors.index.json", index);
    return [&dir] { open_safetensors(dir.path().string()); };
  };
  std::string index = dir.file("model.safetensors.index.json");
  expect_input_error(open(R"({"weight_map":{"a":"two.safetensors"}})"), {index, "two.safetensors", "does not exist"});
  expect_input_error(open(R"({"weight_map":{"z":"one.safetensors"}})"), {index, "tensor z", "one.safetensors"});
  expect_input_error(open(R"({"weight_map":{"a":"../one.safetensors"}})"), {index, "tensor a", "same directory"});
  expect_input_error(open(R"({"weight_map":{"a":3}})"), {index, "tensor a", "found 3"});
  expect_input_error(open(R"({"weight_map":[]})"), {index, "weight_map"});
  expect_input_error(open(R"({"weight_map":)"), {index, "not valid JSON"});
  open(R"({"weight_map":{"a":"one.safetensors"}})")();
}

TEST(Safetensors, DirectoryWithoutWeights) {
  TemporaryDirectory dir;
  expect_input_error([&] { open_safetensors(dir.path().string()); }, {dir.path().string(), "model.safetensors"});
  expect_input_error([&] { open_safetensors(dir.file("none.safetensors")); }, {"none.safetensors", "cannot open"});
}

}  // namespace
}  // namespace restkv::testing
