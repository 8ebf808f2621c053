# One sequence on many threads and processes: the figure of bench/RESULTS.md. Run: gnuplot one_sequence.gp
set terminal svg size 900,360 font "sans,12" background "white"
set output "one_sequence.svg"
set multiplot layout 1,2
set key left top Left reverse samplen 2
set lmargin 9
set rmargin 3
set grid lc rgb "#dddddd"

# gma_bench_segments, segments of 8,192 tokens: threads, times as fast as one pass (median, quartiles), forward, backward
$threads << EOD
1 0.70 0.69 0.72 0.72 0.72 0.73
2 1.30 1.20 1.46 1.38 1.34 1.44
4 2.62 2.21 2.65 2.54 2.38 2.75
8 4.36 3.82 4.56 4.31 4.16 4.57
15 6.10 5.52 6.39 6.50 6.36 6.98
EOD
set title "one head, 131,072 tokens"
set xlabel "threads"
set ylabel "times as fast as one pass"
set xrange [0:16]
set yrange [0:12]
plot x / 1.4 title "threads / 1.4" lc rgb "#aaaaaa" dt 2, \
     $threads using 1:2:3:4 with yerrorlines title "forward" lc rgb "#0072b2" pt 7, \
     $threads using 1:5:6:7 with yerrorlines title "backward" lc rgb "#d55e00" pt 5

# KiB per head that the busiest of 16 ranks sends in a causal forward pass, K = d = e = 64, float
set title "16 processes, forward, K = d = e = 64"
set xlabel "tokens"
set ylabel "KiB sent per head"
set logscale xy
set format xy "10^{%T}"
set xrange [1e4:1e9]
set yrange [10:1e10]
plot 15.0 / 16 * x * 128 * 4 / 1024 title "ring attention: keys and values" lc rgb "#999999" dt 2, \
     130.1 title "GMA: memories" lc rgb "#0072b2" lw 2
