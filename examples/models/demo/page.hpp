// SPDX-License-Identifier: MIT
//
// One HTML page over the files of the demo, which lie in its folder. It needs no server and no network.
#pragma once

#include <algorithm>
#include <string>
#include <vector>

namespace demo {

struct Table {
  std::string title, markdown;
};

struct Command {
  std::string purpose, line;
};

struct PageContent {
  std::string text;  // the name of what was trained on
  std::vector<Table> tables;
  std::vector<Command> commands;
  std::string sample;
};

inline std::string escaped(const std::string& text) {
  std::string html;
  for (const char c : text) {
    if (c == '<')
      html += "&lt;";
    else if (c == '>')
      html += "&gt;";
    else if (c == '&')
      html += "&amp;";
    else
      html += c;
  }
  return html;
}

// A table of Markdown as one of HTML. Its first row is the head, its second one the rule. Numbers are to the right.
inline std::string table_in_html(const std::string& markdown) {
  std::string html = "<div class=\"wide\"><table>\n";
  std::size_t begin = 0;
  for (int row = 0; begin < markdown.size(); ++row) {
    const std::size_t end = markdown.find('\n', begin);
    std::string line = markdown.substr(begin + 1, end - begin - 2);  // without the outer bars
    begin = end + 1;
    if (row == 1) continue;
    const std::string cell = row == 0 ? "th" : "td";
    html += "<tr>";
    for (std::size_t at = 0; at <= line.size();) {
      const std::size_t bar = (std::min)(line.find('|', at), line.size());
      html += "<" + cell + ">" + escaped(line.substr(at, bar - at)) + "</" + cell + ">";
      at = bar + 1;
    }
    html += "</tr>\n";
  }
  return html + "</table></div>\n";
}

inline std::string page(const PageContent& content) {
  std::string html = R"(<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>gma: the demo</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2rem auto; padding: 0 1rem; color: #222; }
img { max-width: 100%; height: auto; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; } th, td { padding: .2rem .8rem; text-align: right; border-bottom: 1px solid #ddd; }
th:first-child, td:first-child { text-align: left; } th { white-space: normal; } td { white-space: nowrap; }
pre { background: #f4f4f4; padding: .8rem; overflow-x: auto; white-space: pre-wrap; overflow-wrap: anywhere; }
</style></head><body>
)";
  html += "<h1>Gaussian mixture attention learns " + escaped(content.text) + "</h1>\n";
  html += "<p><a href=\"routing/routing.html\"><b>What the components of the model learned</b></a></p>\n";
  html += "<h2>Loss</h2>\n<p><img src=\"curve.svg\" alt=\"Validation loss over bytes and seconds\"></p>\n";
  html +=
      "<h2>Time and memory over the length of a stream</h2>\n"
      "<p><img src=\"lengths.svg\" alt=\"Time and memory over the length of a stream\"></p>\n";
  for (const Table& table : content.tables)
    html += "<h3>" + escaped(table.title) + "</h3>\n" + table_in_html(table.markdown);
  html += "<h2>What the model writes</h2>\n<pre>" + escaped(content.sample) + "</pre>\n<h2>To go on</h2>\n";
  for (const Command& command : content.commands)
    html += "<p>" + escaped(command.purpose) + ":</p>\n<pre>" + escaped(command.line) + "</pre>\n";
  return html + "</body></html>\n";
}

}  // namespace demo
