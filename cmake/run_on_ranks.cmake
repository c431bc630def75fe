# cmake -DPROGRAM=... -DRANKS=1,2,3 -DLAUNCHER="mpirun,--flag" -P run_on_ranks.cmake: one program on several rank counts,
# one after the other; the first failure fails all.
string(REPLACE "," ";" counts "${RANKS}")
string(REPLACE "," ";" launcher "${LAUNCHER}")
foreach(count IN LISTS counts)
  message(STATUS "${count} rank(s)")
  execute_process(COMMAND ${launcher} -np ${count} ${PROGRAM} RESULT_VARIABLE result)
  if(NOT result EQUAL 0)
    message(FATAL_ERROR "${PROGRAM} failed on ${count} rank(s): ${result}")
  endif()
endforeach()
