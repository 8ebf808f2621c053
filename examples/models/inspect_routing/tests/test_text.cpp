// SPDX-License-Identifier: MIT
//
// Whatever bytes a text holds, tables and page stay what they are: CSV, and HTML whose script ends where it should.

#include <gtest/gtest.h>

#include "../legible.hpp"
#include "../page.hpp"
#include "../tables.hpp"

namespace inspect_routing {
namespace {

const std::string nasty = "</script><!-- <b>\"it's\" & \\ \n\xE2\x80\xA8 \xFF";

// One head of two components over two tokens, with the nasty text wherever text goes.
Inspection small_inspection() {
  Inspection inspection;
  inspection.model.layers = inspection.model.heads = 1;
  inspection.checkpoint = inspection.text = nasty;
  inspection.context = 8;
  inspection.tokens = 10;
  inspection.factors = {2};
  inspection.components = 2;
  inspection.window_tokens = {nasty, "b"};
  SideReport side;
  side.tokens = 10;
  side.usage = Vector<double>::Constant(2, 0.5);
  side.forms = Matrix<double>::Constant(2, surface_forms, 1);
  side.strongest = {{{nasty, nasty, nasty, 0.75}}, {}};
  side.common = {{{nasty, 3}}, {}};
  HeadReport head;
  head.temperatures = {1};
  head.keys = head.queries = side;
  head.window.keys = head.window.queries = Matrix<double>::Constant(2, 2, 0.5);
  head.window.affinity = Matrix<double>::Identity(2, 2);
  head.window.before = Vector<double>::Zero(2);
  head.window.kept = Vector<double>::Ones(2);
  inspection.heads = {head};
  return inspection;
}

std::size_t count_of(const std::string& text, const std::string& part) {
  std::size_t count = 0;
  for (std::size_t i = text.find(part); i != std::string::npos; i = text.find(part, i + part.size())) ++count;
  return count;
}

TEST(Legible, KeepsUtf8AndNamesOtherBytes) {
  EXPECT_EQ(legible("a\xC3\xA9\xE2\x80\x9C\xF0\x9F\x98\x80\n"), "a\xC3\xA9\xE2\x80\x9C\xF0\x9F\x98\x80\n");
  EXPECT_EQ(legible("\xC3"), "\\xC3");
  EXPECT_EQ(legible("\xA9z"), "\\xA9z");
  EXPECT_EQ(legible("\xC0\xAF"), "\\xC0\\xAF");                  // overlong
  EXPECT_EQ(legible("\xED\xA0\x80"), "\\xED\\xA0\\x80");         // half a surrogate pair
  EXPECT_EQ(legible("\xF4\x90\x80\x80").substr(0, 4), "\\xF4");  // beyond U+10FFFF
  EXPECT_EQ(legible_line("a\n\t\\\x01\xFF"), "a\\n\\t\\\\\\x01\\xFF");
}

TEST(Legible, CutsBetweenLetters) {
  EXPECT_EQ(last_letters("ab\xC3\xA9", 1), "");
  EXPECT_EQ(last_letters("ab\xC3\xA9", 3), "b\xC3\xA9");
  EXPECT_EQ(first_letters("\xC3\xA9"
                          "ab",
                          1),
            "");
  EXPECT_EQ(first_letters("\xC3\xA9"
                          "ab",
                          3),
            "\xC3\xA9"
            "a");
  EXPECT_EQ(first_letters("ab", 3), "ab");
}

TEST(Csv, QuotesFields) {
  EXPECT_EQ(csv_field("plain"), "plain");
  EXPECT_EQ(csv_field(""), "");
  EXPECT_EQ(csv_field(" "), "\" \"");
  EXPECT_EQ(csv_field("a,b"), "\"a,b\"");
  EXPECT_EQ(csv_field("say \"so\""), "\"say \"\"so\"\"\"");
  EXPECT_EQ(csv_field("a\nb"), "\"a\nb\"");
}

TEST(Tables, HaveALineForEachEntry) {
  const Inspection inspection = small_inspection();
  EXPECT_EQ(count_of(summary_csv(inspection), "\n"), 1u + 2);
  EXPECT_EQ(count_of(usage_csv(inspection), "\n"), 1u + 4);
  EXPECT_EQ(count_of(tokens_csv(inspection), "\n"), 1u + 2);
  EXPECT_EQ(count_of(responsibilities_csv(inspection), "\n"), 1u + 4);
  EXPECT_EQ(count_of(affinity_csv(inspection), "\n"), 1u + 2 + 3);
  const std::string summary = summary_csv(inspection), header = summary.substr(0, summary.find('\n'));
  const std::string line = summary.substr(header.size() + 1, summary.find('\n', header.size() + 1) - header.size() - 1);
  EXPECT_EQ(count_of(header, ","), count_of(line, ","));
  EXPECT_NE(usage_csv(inspection).find("1,1,keys,2,0.5,0,6,1,1,1,1,1,1\n"), std::string::npos);
}

TEST(Page, JsonHoldsNoMarkup) {
  const nlohmann::json value = {{nasty.substr(0, 20), "</script>&amp;<"}};
  const std::string text = json_for_script(value);
  EXPECT_EQ(text.find_first_of("<>&"), std::string::npos);
  EXPECT_EQ(nlohmann::json::parse(text), value);
}

TEST(Page, SurvivesTextThatLooksLikeMarkup) {
  const std::string html = page(small_inspection());
  EXPECT_EQ(count_of(html, "</script>"), 2u);  // of the data and of the program
  EXPECT_EQ(count_of(html, "<!--"), 0u);
  EXPECT_EQ(html.find("http://") == std::string::npos ? 0u : count_of(html, "http://") - count_of(html, "www.w3.org"),
            0u);
  EXPECT_EQ(count_of(html, "https://"), 0u);
  const std::string open = "id=\"data\">";
  const std::size_t begin = html.find(open) + open.size();
  const auto data = nlohmann::json::parse(html.substr(begin, html.find("</script>", begin) - begin));
  EXPECT_EQ(data["windowTokens"][0], legible(nasty));
  EXPECT_EQ(data["text"], legible(nasty));
  EXPECT_EQ(data["heads"][0]["keys"]["strongest"][0][0],
            nlohmann::json({legible(nasty), legible(nasty), legible(nasty), 0.75}));
  EXPECT_EQ(html.find("/*DATA*/"), std::string::npos);
}

TEST(Page, MarksInATextAreLeftAlone) {
  Inspection inspection = small_inspection();
  inspection.text = "/*DATA*/ /*STYLE*/ /*SCRIPT*/";
  EXPECT_EQ(count_of(page(inspection), "/*STYLE*/"), 1u);
}

TEST(Page, PacksShares) {
  Matrix<double> shares(1, 3);
  shares << 0, 1, 0.5;
  EXPECT_EQ(packed(shares), "AAD//wCA");  // 0000 FFFF 8000, low bytes first
  EXPECT_EQ(packed(shares.leftCols(1)), "AAA=");
  EXPECT_EQ(packed(shares.leftCols(2)), "AAD//w==");
}

}  // namespace
}  // namespace inspect_routing
