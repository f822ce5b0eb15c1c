"""Every threshold of the quality checks, each with its reason. They lean to silence: a finding that is wrong once in a
hundred times is read once and never again."""

PLACES = 10
"""Places of a finding that are named; the count goes on."""
EXAMPLES = 3
"""Excerpts of a finding, so that a person sees what is meant."""
EXCERPT = 80
"""Characters of an excerpt: a line of a terminal beside its place."""

ENOUGH = 100
"""Rows from which on a distribution has tails to speak of: below, one row is more than a percent."""
FEW_ROWS = 50
"""Fewer rows are learned by heart before anything general is."""
FENCE = 3.0
"""An answer is short or long beyond this many interquartile ranges of the logarithm of lengths: Tukey's outer fence
("Exploratory Data Analysis", 1977), which one value in 400,000 of a normal distribution passes."""
OCTAVE = 1.0
"""The least interquartile range, in doublings: where all are alike, twice a length is no outlier."""

LOOP_TIMES = 4
"""Repetitions in a row that no writer means: a refrain has three."""
LOOP_WORDS = 16
"""Words that the repetitions cover at the least, so that "no, no, no, no" is none."""
LOOP_LETTERS = 40
"""As LOOP_WORDS, in characters, for scripts without spaces."""
LOOP_SURE = 6
"""Repetitions in a row that are a loop, however long the text around them is; fewer must be a good part of it."""
LOOP_SHARE = 0.25
"""Share of an answer that a shorter loop covers: a table may have equal cells for a while."""
LOOP_TEXT = 20_000
"""Characters that are searched, from the end of a text: that is where loops are."""
LOOP_PERIOD = 160
"""Longest unit in words: a long paragraph. For characters twice as long."""

SENTENCE = 30
"""Characters from which on a sentence is one's own; "Thank you!" stands in many answers."""
COMMON_SHARE = 0.1
"""Share of the rows in which a sentence is boilerplate. A fact that is asked in eight wordings stays below."""
COMMON_ROWS = 20
HTML_ROWS = 5
"""Rows with HTML that are more than an accident; in sets of more than 50 rows, COMMON_SHARE of them."""
COUNTERS = 8192
"""Sentences that are counted at once (Misra and Gries, 1982): none in more than 1 of 8,192 is missed."""

ECHO = 12
"""Characters from which on an answer that equals its question is no greeting."""
CUT_LENGTH = 120
"""Characters from which on an answer is prose that ends in a full stop."""
CUT_LINE = 60
"""Characters of the last line: below, it may be a signature, a title or a verse."""
CUT_WORDS = 8
CUT_OTHERS = 2
"""Other lines that must all end in a full stop, where the last has none before its end."""

PLACEHOLDER = 40
"""Longest answer that may be nothing but a placeholder."""
ENTROPY = 3.5
"""Bits per character from which on a quoted value of a `password =` is none from a tutorial."""

SAMPLE = 500
"""Rows whose language is found: of one row in a hundred, some are seen in 99 of 100 samples. It takes 0.2 s."""
SAMPLE_TEXT = 600
"""Characters that are looked at of each. In half as many, a line of foreign names was Italian."""
LETTERS = 40
"""Letters that a language needs: shorter texts are names, numbers and words that many languages share."""
SURE = 0.9
"""Confidence below which a text has no language. Names and code come to less than 0.3."""

IMBALANCE = 10.0
"""Times that the largest class may be larger than the smallest: beyond it, always answering the largest looks good."""
RARE_CLASS = 10
"""Rows that a class needs: a twentieth is held out, and the others must show what they have in common."""
RARE_ROWS = 3
"""As RARE_CLASS, where there are fewer than ENOUGH rows: what stands once or twice is learned by heart."""
MANY_CLASSES = 20
"""Labels from which on they may be numbers on a scale, or texts: where they are more than half as many as the rows."""
LABELS = 1000
"""Different labels that are counted; more are no classes."""
BIAS_ROWS = 50
BIAS_SHARE = 0.8
"""Share of pairs whose better answer is the longer one, from which on length is what is learned (Singhal et al.,
"A Long Way to Go", 2023)."""
ONE_SIDED = 0.9
"""Share of ratings that are all good, or all bad."""

PIECES = 0.05
"""Share of tokens that are only a part of a character: the tokenizer was not made for this script."""
RARE_TOKEN = 5
"""Occurrences below which a token is rare."""
BUFFER = 1 << 20
"""Tokens that are counted in one call."""
