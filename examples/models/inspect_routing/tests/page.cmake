# SPDX-License-Identifier: MIT
#
# Opens the page in a browser without a window, and checks the resulting document.
#   cmake -DPAGE=routing.html -DPROFILE=scratch -P page.cmake

find_program(browser NAMES chromium chromium-browser google-chrome google-chrome-stable)
if(NOT browser)
  message("skipped: there is no browser (chromium or google-chrome)")
  return()
endif()

# open(<text after # in the address>): sets `document` to the document
function(open hash)
  execute_process(COMMAND "${browser}" --headless --no-sandbox --disable-gpu --disable-dev-shm-usage
      "--user-data-dir=${PROFILE}" --virtual-time-budget=5000 --enable-logging=stderr --dump-dom "file://${PAGE}#${hash}"
    RESULT_VARIABLE result OUTPUT_VARIABLE output ERROR_VARIABLE log TIMEOUT 120)
  if(NOT result EQUAL 0)
    message(FATAL_ERROR "${browser} failed (${result})\n${log}")
  endif()
  if(log MATCHES "CONSOLE[^\n]*")
    message(FATAL_ERROR "the page complains: ${CMAKE_MATCH_0}")
  endif()
  string(REPLACE ";" "," output "${output}")  # a semicolon would split the list of matches
  set(document "${output}" PARENT_SCOPE)
endfunction()

# has(<number> <regex>): the regex must occur this often
function(has expected pattern)
  string(REGEX MATCHALL "${pattern}" all "${document}")
  list(LENGTH all count)
  if(NOT count EQUAL expected)
    message(FATAL_ERROR "'${pattern}' occurs ${count} times, expected ${expected}")
  endif()
endfunction()

open("layer=1&head=2&side=queries&component=3&token=20&theme=dark")
has(1 "<html[^>]*data-scheme=\"dark\"[^>]*data-ready=\"true\"")
has(4 "<button[^>]*class=\"card\"")
has(1 "class=\"card\" aria-pressed=\"true\" data-layer=\"1\" data-head=\"2\"")
has(1 "<svg[^>]*data-bars=\"16\"")
has(16 "class=\"hit\"")
has(1 "<h3>Component 3</h3>")
has(1 "Components of layer 1, head 2, for queries")
has(40 "<span class=\"t[^>]*data-token=")
has(1 "<canvas id=\"affinity\"[^>]*data-rows=\"40\" data-columns=\"40\"")
has(1 "<canvas id=\"responsibilities\"[^>]*data-rows=\"16\" data-columns=\"40\"")
has(0 "<b>[0-9]+</b> &amp; their")  # the text's markup is text

open("layer=2&head=1&sort=form&theme=light")
has(1 "class=\"card\" aria-pressed=\"true\" data-layer=\"2\" data-head=\"1\"")
has(1 "<html[^>]*data-scheme=\"light\"")

open("layer=99&head=nothing&component=-4&side=both")  # impossible values are corrected
has(1 "<html[^>]*data-ready=\"true\"")
has(1 "class=\"card\" aria-pressed=\"true\" data-layer=\"2\" data-head=\"1\"")
