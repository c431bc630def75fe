// The program itself, started as a user would: with mpirun, by its exit code and its two outputs.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <string>
#include <thread>

#include "tests/launch/temp_dir.h"

namespace restkv::testing {

struct Outcome {
  int exit_code = -1;
  std::string out, err;
  double seconds = 0.0;
};

/// A shell command in a process group of its own.
class Process {
 public:
  explicit Process(const std::string& command) {
    out_ = dir_.path("out");
    err_ = dir_.path("err");
    pid_ = ::fork();
    if (pid_ != 0) return;
    ::setpgid(0, 0);
    redirect(out_, STDOUT_FILENO);
    redirect(err_, STDERR_FILENO);
    redirect("/dev/null", STDIN_FILENO);
    ::execl("/bin/sh", "sh", "-c", command.c_str(), nullptr);
    ::_exit(127);
  }
  ~Process() {
    if (pid_ > 0) ::kill(-pid_, SIGKILL);
    if (pid_ > 0) ::waitpid(pid_, nullptr, 0);
  }
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;

  pid_t pid() const { return pid_; }
  std::string out() const { return read_file(out_); }
  std::string err() const { return read_file(err_); }

  /// Waits for the end, at most 120 seconds.
  Outcome wait() {
    Outcome outcome;
    auto start = std::chrono::steady_clock::now();
    auto passed = [&] { return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count(); };
    int status = 0;
    while (::waitpid(pid_, &status, WNOHANG) == 0) {
      if (passed() > 120) {
        ADD_FAILURE() << "still running after 120 s";
        return outcome;
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    pid_ = -1;
    outcome.seconds = passed();
    outcome.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    outcome.out = out();
    outcome.err = err();
    return outcome;
  }

 private:
  static void redirect(const std::string& path, int fd) {
    int file = ::open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC, 0600);
    ::dup2(file, fd);
    ::close(file);
  }

  TempDir dir_;
  std::string out_, err_;
  pid_t pid_ = -1;
};

inline Outcome run_command_line(const std::string& command) { return Process(command).wait(); }

/// `arguments` of restkv, on `ranks` ranks; 0: without mpirun. Runs on the CPU, whatever the machine has, unless the
/// arguments speak of a device.
inline std::string restkv_command(int ranks, const std::string& arguments) {
  std::string program = std::string("'") + RESTKV_PROGRAM + "' " + arguments;
  bool configured = arguments.find(".yaml") != std::string::npos;
  if (configured && arguments.find("parallel.device") == std::string::npos) program += " --set parallel.device=cpu";
  if (ranks == 0) return "exec " + program;
  return std::string("exec ") + RESTKV_MPIRUN + " -np " + std::to_string(ranks) + " " + program;
}

inline Outcome restkv(int ranks, const std::string& arguments) {
  return run_command_line(restkv_command(ranks, arguments));
}

inline int count_of(const std::string& text, const std::string& part) {
  int n = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + part.size())) ++n;
  return n;
}

}  // namespace restkv::testing
