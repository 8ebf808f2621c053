# SPDX-License-Identifier: MIT
#
# Looks for nlohmann_json but does not require it. Its version file accepts a request from its own major version.
if(NOT TARGET nlohmann_json::nlohmann_json)
  find_package(nlohmann_json 3.9 CONFIG QUIET)
endif()
