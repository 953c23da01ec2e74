// Threads of a team count what they do, in many runs of phases of few tasks, some of none.
#include <cstdio>
#include <cstdlib>
#include "team.h"

int main(int count, char** arguments) {
  const int threads = std::atoi(arguments[1]), runs = std::atoi(arguments[2]);
  Team team(threads);
  constexpr int PHASES = 60, MOST = 9;
  static int done[PHASES][MOST], seen[PHASES];
  for (int run = 0; run < runs; run++) {
    for (auto& phase : done) for (int& task : phase) task = 0;
    auto work = [&](int) {
      for (int phase = 0; phase < PHASES; phase++) {
        const int tasks = (run * 7 + phase * 5) % (MOST + 1);
        team.each(tasks, [&](int task) {
          done[phase][task]++;
          if (phase)  // what was done in the phase before is there, and whole
            for (int before = 0; before < (run * 7 + (phase - 1) * 5) % (MOST + 1); before++)
              if (done[phase - 1][before] != 1) std::abort();
        });
      }
    };
    team.run(work);
    for (int phase = 0; phase < PHASES; phase++)
      for (int task = 0; task < MOST; task++)
        if (done[phase][task] != (task < (run * 7 + phase * 5) % (MOST + 1))) std::abort();
  }
  std::puts("all once");
}
