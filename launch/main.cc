// restkv: reads the command line and calls the subcommand.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdlib>
#include <exception>
#include <string>
#include <thread>
#include <vector>

#include "dist/base/error.h"
#include "launch/bench/bench_command.h"
#include "launch/inspect/inspect_command.h"
#include "launch/plan/plan_command.h"
#include "launch/run/run_command.h"
#include "launch/version.h"

namespace {

/// A wrong command line is the same on every rank; only the launcher's first rank says so.
bool is_first_process() {
  for (const char* name : {"OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK", "SLURM_PROCID"})
    if (const char* rank = std::getenv(name)) return std::atoi(rank) == 0;
  return true;
}

/// Prints an error once. The other ranks wait a moment: the launcher ends all of them when the first one exits.
int refuse(const std::string& text, int exit_code) {
  if (is_first_process())
    fmt::print(stderr, "restkv: error: {}\n", text);
  else
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
  return exit_code;
}

template <class Body>
int guarded(const Body& body) {
  try {
    return body();
  } catch (const restkv::Error& e) {
    return refuse(e.what(), e.exit_code());
  } catch (const std::exception& e) {
    return refuse(e.what(), 1);
  }
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("restkv: long-context inference on many ranks, with consistent eviction of the KV cache");
  app.set_version_flag("--version", std::string("restkv ") + restkv::version());
  app.require_subcommand(1);
  std::string path;
  std::vector<std::string> overrides;

  auto* run = app.add_subcommand("run", "Answer the prompts of a configuration (start it with mpirun)");
  auto* plan =
      app.add_subcommand("plan", "Memory, exchanged bytes and times of a configuration, without loading weights");
  auto* bench = app.add_subcommand("bench", "Measure a sweep over contexts, policies, budgets, batches and layouts");
  for (auto* command : {run, plan, bench}) {
    command->add_option("CONFIG", path, "YAML file (configs/README.md lists its keys)")->required();
    command->add_option("--set", overrides, "section.key=value, instead of the file's; may be repeated")
        ->expected(1)
        ->take_all();
  }
  std::string ceilings;
  plan->add_option("--ceilings", ceilings, "file that restkv bench wrote, to predict times from (plan.ceilings)");
  auto* inspect = app.add_subcommand("inspect", "Architecture, tensors, tokenizer and chat template of a model");
  inspect->add_option("MODEL", path, "Hugging Face directory or GGUF file")->required();

  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    bool asked = e.get_exit_code() == 0;  // --help, --version
    if (asked) return is_first_process() ? app.exit(e) : 0;
    bool unknown = app.get_subcommands().empty() && argc > 1 && argv[1][0] != '-';
    std::string text =
        unknown ? fmt::format("unknown subcommand \"{}\", expected run, plan, bench or inspect", argv[1]) : e.what();
    return refuse(text + " (restkv --help shows the usage)", 2);
  }
  return guarded([&] {
    if (run->parsed()) return restkv::run_command(path, overrides);
    if (bench->parsed()) return restkv::bench_command(path, overrides);
    if (!ceilings.empty()) overrides.push_back("plan.ceilings=" + ceilings);
    if (plan->parsed()) restkv::plan_command(path, overrides);
    if (inspect->parsed()) restkv::inspect_command(path);
    return 0;
  });
}
