// configs/README.md says of every key what the program does with it, and the configurations that come with the
// project are valid.
#include <gtest/gtest.h>

#include <filesystem>
#include <set>

#include "launch/config/key_table.h"
#include "tests/launch/temp_dir.h"

namespace restkv {
namespace {

TEST(ConfigDocs, EveryKeyHasItsRow) {
  std::string readme = testing::read_file(std::string(RESTKV_CONFIGS) + "/README.md");
  for (const KeySpec& key : run_keys())
    EXPECT_NE(readme.find(markdown_row(key) + "\n"), std::string::npos) << "expected the row\n" << markdown_row(key);
}

TEST(ConfigDocs, NoRowOfAKeyThatIsGone) {
  std::istringstream lines(testing::read_file(std::string(RESTKV_CONFIGS) + "/README.md"));
  std::string line;
  int rows = 0;
  while (std::getline(lines, line)) {
    if (!line.starts_with("| `") || line.find('.') == std::string::npos) continue;
    std::string name = line.substr(3, line.find('`', 3) - 3);
    EXPECT_NE(find_key(name), nullptr) << name;
    ++rows;
  }
  EXPECT_EQ(rows, static_cast<int>(run_keys().size()));
}

TEST(ConfigDocs, NamesAreDistinctAndHaveASection) {
  std::set<std::string> names;
  for (const KeySpec& key : run_keys()) {
    EXPECT_TRUE(names.insert(key.name).second) << key.name;
    EXPECT_NE(key.name.find('.'), std::string::npos) << key.name;
    EXPECT_FALSE(key.doc.empty()) << key.name;
  }
}

TEST(ConfigDocs, ShippedConfigurationsLoad) {
  int count = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(RESTKV_CONFIGS)) {
    if (entry.path().extension() != ".yaml") continue;
    EXPECT_NO_THROW(load_run_config(entry.path().string(), {})) << entry.path();
    ++count;
  }
  EXPECT_GE(count, 5);
}

}  // namespace
}  // namespace restkv
