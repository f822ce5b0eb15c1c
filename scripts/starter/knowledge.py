"""General English from the tables of `knowledge.txt`: facts, words, tips, small talk, stories, letters, reviews."""
# ruff: noqa: E501 - the lines are sentences

from __future__ import annotations

from pathlib import Path
from random import Random

from tasks import NUMBERS, Turn, one
from words import NAMES, a, cap, join, past, person, phrase, pick, plural, sample, sentence


def load(path: Path) -> dict[str, list[tuple[str, str]]]:
    """Section -> (key, value) pairs."""
    sections: dict[str, list[tuple[str, str]]] = {}
    for line in path.read_text().splitlines():
        if line.startswith("["):
            current = sections.setdefault(line.strip("[]"), [])
        elif not line.startswith("#"):
            key, _, value = line.partition(": ")
            current.append((key, value))
    return sections


TABLES = load(Path(__file__).with_name("knowledge.txt"))
CLASS = {item: kind for kind, items in TABLES["classes"] for item in items.split()}


def parts(text: str) -> list[str]:
    return [part.strip() for part in text.split("|")]


def capital(rng: Random) -> list[Turn]:
    country, city = rng.choice(TABLES["capitals"])
    ask = rng.choice(
        [
            f"What is the capital of {country}?",
            f"Name the capital of {country}.",
            f"Which city is the capital of {country}?",
        ]
    )
    if rng.random() < 0.25:
        return one(f"{city} is the capital of which country?", f"{city} is the capital of {country}.")
    return one(ask, f"The capital of {country} is {city}.")


def word(rng: Random) -> list[Turn]:
    if rng.random() < 0.6:
        pair = rng.choice(TABLES["opposites"])
        left, right = pair if rng.random() < 0.5 else pair[::-1]
        ask = rng.choice(["What is the opposite of {}?", "Give an antonym for {}.", "Name the opposite: {}"])
        return one(ask.format(left), rng.choice([f"The opposite of {left} is {right}.", cap(right) + "."]))
    left, values = rng.choice(TABLES["synonyms"])
    ask = rng.choice(["Give three synonyms for {}.", "What are other words for {}?", "Find synonyms of the word {}."])
    return one(ask.format(left), f"Other words for {left} are {join(values.split(', '))}.")


def definition(rng: Random) -> list[Turn]:
    if rng.random() < 0.4:
        job, duty = rng.choice(TABLES["jobs"])
        return rng.choice(
            [
                one(f"What does {a(job)} do?", f"{cap(a(job))} {duty}."),
                one(f"Describe the job of {a(job)}.", f"{cap(a(job))} is a person who {duty}."),
                one(f"Who {duty}?", f"{cap(a(job))} {duty}."),
            ]
        )
    term, text = rng.choice(TABLES["definitions"])
    ask = rng.choice(["What is {}?", "Define {}.", "Explain {} in simple words.", "What does {} mean?", "Describe {}."])
    return one(ask.format(term), rng.choice([f"{cap(term)} is {text}.", cap(text) + "."]))


def why(rng: Random) -> list[Turn]:
    claim, reason = rng.choice(TABLES["why"])
    ask = rng.choice(["Explain why {}.", "Tell me the reason why {}.", "Give one reason why {}.", "Why is it that {}?"])
    return one(ask.format(claim), reason)


def advice(rng: Random) -> list[Turn]:
    topic, text = rng.choice(TABLES["tips"])
    tips = rng.sample(parts(text), rng.randint(2, 5))
    number = NUMBERS[len(tips)]
    ask = rng.choice(
        [f"Give {number} tips for {topic}.", f"List {number} tips about {topic}.", f"Provide {number} pieces of advice for {topic}.",
         f"Generate a list of {number} tips for {topic}.", f"What are {number} good tips for {topic}?"]
    )  # fmt: skip
    answer = " ".join(tips) if rng.random() < 0.35 else "\n".join(f"{n}. {tip}" for n, tip in enumerate(tips, 1))
    return one(ask, answer)


def steps(rng: Random) -> list[Turn]:
    goal, text = rng.choice(TABLES["steps"])
    items = parts(text)
    ask = rng.choice(
        [
            "How do I {}?",
            "Explain how to {}.",
            "Describe the steps to {}.",
            "Write instructions to {}.",
            "How can you {}?",
        ]
    )
    if rng.random() < 0.5:
        return one(ask.format(goal), "\n".join(f"{n}. {item}" for n, item in enumerate(items, 1)))
    lower = [item[0].lower() + item[1:] for item in items]
    return one(
        ask.format(goal),
        f"First, {lower[0]} Then {lower[1]} Next, {lower[2]} After that, {' '.join([lower[3], *items[4:]])}",
    )


def classify(rng: Random) -> list[Turn]:
    item, kind = rng.choice(list(CLASS.items()))
    roll = rng.randrange(4)
    if roll == 0:
        return one(f"Is {a(item)} {a(kind)}?", f"Yes, {a(item)} is {a(kind)}.")
    if roll == 1:
        other = rng.choice([other for other in sorted(set(CLASS.values())) if other != kind])
        return one(f"Is {a(item)} {a(other)}?", f"No, {a(item)} is {a(kind)}.")
    if roll == 2:
        kinds = rng.sample(TABLES["classes"], 2)
        words = rng.sample([(w, k) for k, text in kinds for w in text.split()], 4)
        lines = "\n".join(f"{cap(w)}: {k}" for w, k in words)
        return one(f"Classify each word as {kinds[0][0]} or {kinds[1][0]}: {', '.join(w for w, _ in words)}", lines)
    return one(f"Classify the following word: {item}", f"{cap(item)} is {a(kind)}.")


def odd(rng: Random) -> list[Turn]:
    (kind, text), (_, other) = rng.sample(TABLES["classes"], 2)
    items = rng.sample(text.split(), 3)
    stranger = rng.choice(other.split())
    mixed = rng.sample([*items, stranger], 4)
    ask = rng.choice(["Which word does not belong: {}?", "Find the odd one out: {}", "Identify the odd word: {}"])
    return one(ask.format(", ".join(mixed)), f"{cap(stranger)} does not belong. The others are of the kind {kind}.")


def review(rng: Random) -> list[Turn]:
    good = rng.random() < 0.5
    item = pick(rng, rng.choice(["products", "rooms", "foods"]))
    praise = [
        "I love it",
        "It works perfectly",
        "The quality is great",
        "I would buy it again",
        "Everyone was friendly",
        "It is worth it",
    ]
    blame = [
        "It broke after a day",
        "The quality is poor",
        "I want my money back",
        "It was a waste of money",
        "Nobody helped me",
        "I am disappointed",
    ]
    word = rng.choice(
        ["wonderful", "excellent", "lovely", "fantastic"] if good else ["terrible", "awful", "horrible", "useless"]
    )
    text = f"The {item} was {word}. {'. '.join(rng.sample(praise if good else blame, rng.randint(1, 2)))}."
    ask = rng.choice(
        [
            "Is this review positive or negative?\n\n{}",
            "Classify the sentiment of the text.\n\n{}",
            "What is the sentiment: {}",
        ]
    )
    label = "Positive" if good else "Negative"
    return one(ask.format(text), rng.choice([label, label + ".", f"The review is {label.lower()}."]))


def story(rng: Random) -> list[Turn]:
    name, pronoun, other, own = person(rng)
    job, place, thing, animal = pick(rng, "jobs"), pick(rng, "rooms"), phrase(rng, "things"), pick(rng, "animals")
    verb, mood = (
        past(pick(rng, "transitive")),
        rng.choice(["happy", "proud", "grateful", "surprised", "tired but glad"]),
    )
    lines = [
        rng.choice([f"Once upon a time there was {a(job)} named {name}.", f"{name} was {a(job)} who lived near the {place}."]),
        rng.choice([f"One day {pronoun} found {a(thing)}.", f"One morning {pronoun} saw {a(animal)} at the door.",
                    f"{cap(pronoun)} had a dream about {a(thing)}."]),
        rng.choice([f"{cap(pronoun)} {verb} it and showed it to {own} friend {rng.choice(NAMES)}.",
                    f"Nobody believed {other}, but {pronoun} did not give up.", f"It was {pick(rng, 'adjectives')} and {pick(rng, 'adjectives')}."]),
        rng.choice([f"Together they went to the {pick(rng, 'rooms')}.", f"{cap(pick(rng, 'times'))}, something strange happened.",
                    f"{cap(pronoun)} learned that {pick(rng, 'abstract')} is more important than money."]),
        rng.choice([f"In the end {name} was {mood}.", f"From that day on, {name} never felt lonely again.", "And they all lived in peace."]),
    ]  # fmt: skip
    ask = rng.choice([f"Write a short story about {a(job)}.", f"Tell me a story about {name}.", f"Write a story with {a(job)} and {a(animal)}.",
                      f"Create a short story that includes the words {job} and {place}."])  # fmt: skip
    return one(ask, " ".join(lines))


def letter(rng: Random) -> list[Turn]:
    sender, reader = rng.sample(NAMES, 2)
    day, place, item = rng.choice(["Monday", "Tuesday", "Friday", "Sunday"]), pick(rng, "rooms"), pick(rng, "products")
    ask, body = rng.choice(
        [(f"invite {reader} to a party on {day}", f"I would like to invite you to my party on {day}. We meet at the {place}. I hope you can come."),
         (f"thank {reader} for the {item}", f"Thank you very much for the {item}. It is exactly what I needed. You are very kind."),
         (f"tell {reader} that the meeting moves to {day}", f"our meeting moves to {day}. The place stays the same. Please tell me if you cannot come."),
         (f"ask {reader} for help with the {item}", f"I have a problem with my {item}. Could you help me on {day}? I would be grateful."),
         (f"say sorry to {reader} for being late", "I am sorry that I was late. It will not happen again. Thank you for your patience.")]
    )  # fmt: skip
    style = rng.choice(["Write a short email to {}.", "Write a letter to {}.", "Draft a message to {}."])
    return one(f"{style.format(ask)} My name is {sender}.", f"Dear {reader},\n\n{cap(body)}\n\nBest regards,\n{sender}")


def rewrite(rng: Random) -> list[Turn]:
    text, item = sentence(rng), pick(rng, "things")
    return rng.choice(
        [
            one(f"Correct the sentence: {text.lower()[:-1]}", text),
            one(f"Make this text polite: Give me the {item}.", f"Could you please give me the {item}?"),
            one(f"How many words are in this sentence? {text}", f"The sentence has {len(text.split())} words."),
            one(f"Split the text into sentences.\n\n{text} {(second := sentence(rng))}", f"{text}\n{second}"),
            one(f"Find the last word of this sentence: {text}", f"The last word is {text[:-1].split()[-1]}."),
        ]
    )


def describe(rng: Random) -> list[Turn]:
    item, kind = rng.choice(list(CLASS.items()))
    tone, shade = sample(rng, "adjectives", 2), pick(rng, "colors")
    ask = rng.choice(
        [f"Describe {a(item)}.", f"Write a sentence about {a(item)}.", f"Write a short text about {plural(item)}."]
    )
    answer = f"{cap(a(item))} is {a(kind)}. It can be {tone[0]} or {tone[1]}, and it is often {shade}."
    return one(ask, answer if rng.random() < 0.7 else f"The {item} is {tone[0]} and {shade}.")


def talk(rng: Random) -> list[Turn]:
    turns: list[Turn] = []
    for asks, answers in rng.sample(TABLES["talk"], rng.randint(1, 3)):
        turns += one(rng.choice(parts(asks)), rng.choice(parts(answers)))
    return turns


KNOWLEDGE = [
    capital,
    word,
    definition,
    why,
    advice,
    advice,
    steps,
    classify,
    odd,
    review,
    story,
    letter,
    rewrite,
    describe,
    talk,
    talk,
]
