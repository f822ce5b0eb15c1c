"""Small instructions whose answer follows from the prompt: copying, lists, letters, numbers, reading a passage."""
# ruff: noqa: E501, SIM905 - the lines are sentences

from __future__ import annotations

from random import Random

from words import ALL, NAMES, WORDS, a, cap, ing, join, past, person, phrase, pick, plural, sample, sentence, third

Turn = tuple[str, str]
GROUPS = ["animals", "foods", "things", "colors", "jobs", "adjectives", "adverbs", "rooms", "girls", "boys"]
NUMBERS = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen".split()


def one(question: str, answer: str) -> list[Turn]:
    return [("user", question), ("assistant", answer)]


def repeat(rng: Random) -> list[Turn]:
    text = sentence(rng) if rng.random() < 0.6 else " ".join(rng.sample(ALL, rng.randint(2, 7)))
    ask = rng.choice(
        [
            "Repeat: {}",
            "Say this again: {}",
            "Repeat the following text.\n\n{}",
            "Copy this: {}",
            "Please repeat after me: {}",
        ]
    )
    return one(ask.format(text), text)


def case(rng: Random) -> list[Turn]:
    text = " ".join(rng.sample(ALL, rng.randint(1, 5))).lower()
    name, change = rng.choice(
        [("uppercase", str.upper), ("capital letters", str.upper), ("title case", str.title), ("lowercase", str.lower)]
    )
    shown = text if name != "lowercase" else text.upper()
    ask = rng.choice(["Write this in {}: {}", "Convert to {}: {}", "Change the text to {}.\n\n{}", "Put it in {}: {}"])
    return one(ask.format(name, shown), change(shown))


def listing(rng: Random) -> list[Turn]:
    items = sample(rng, rng.choice(GROUPS), rng.randint(2, 7))
    text = join(items) if rng.random() < 0.5 else ", ".join(items)
    style = rng.randrange(5)
    if style == 0:
        return one(f"Make a numbered list of {text}.", "\n".join(f"{n}. {x}" for n, x in enumerate(items, 1)))
    if style == 1:
        return one(f"Write these as bullet points: {text}", "\n".join(f"- {x}" for x in items))
    if style == 2:
        return one(f"Sort these words alphabetically: {text}", ", ".join(sorted(items, key=str.lower)))
    if style == 3:
        return one(f"How many words are in this list: {', '.join(items)}?", f"There are {NUMBERS[len(items)]} words.")
    return one(f"Reverse the order of this list: {', '.join(items)}", ", ".join(reversed(items)))


def position(rng: Random) -> list[Turn]:
    items = sample(rng, rng.choice(GROUPS), rng.randint(3, 6))
    index = rng.choice([0, 1, 2, -1])
    name = {0: "first", 1: "second", 2: "third", -1: "last"}[index]
    ask = rng.choice(
        ["What is the {} word: {}?", "Which word comes {} in this list: {}?", "Give me the {} item of: {}"]
    )
    return one(ask.format(name, ", ".join(items)), items[index])


def naming(rng: Random) -> list[Turn]:
    group, label = rng.choice(
        [("animals", "animals"), ("foods", "things to eat or drink"), ("colors", "colors"), ("jobs", "jobs"),
         ("things", "things in a house"), ("girls", "names for a girl"), ("boys", "names for a boy"),
         ("adjectives", "adjectives"), ("adverbs", "adverbs"), ("rooms", "places"), ("transitive", "verbs")]
    )  # fmt: skip
    count = rng.randint(2, 7)
    items = sample(rng, group, count)
    ask = rng.choice(
        ["Name {} {}.", "Give me {} {}.", "List {} {}.", "Can you name {} {}?", "Generate a list of {} {}."]
    )
    number = NUMBERS[count] if rng.random() < 0.6 else str(count)
    answer = (
        join([cap(items[0]), *items[1:]]) + "."
        if rng.random() < 0.5
        else "\n".join(f"{n}. {cap(x)}" for n, x in enumerate(items, 1))
    )
    return one(ask.format(number, label), answer)


def arithmetic(rng: Random) -> list[Turn]:
    x, y = rng.randint(0, 30), rng.randint(0, 20)
    if rng.random() < 0.35:
        x, y = max(x, y), min(x, y)
        name, total = rng.choice(NAMES), x - y
        thing = pick(rng, "things")
        ask = f"{name} has {x} {plural(thing)} and gives away {y}. How many are left?"
        return one(ask, f"{name} has {total} {thing if total == 1 else plural(thing)} left.")
    sign, total = rng.choice([("+", x + y), ("plus", x + y), ("-", x - y), ("minus", x - y)])
    ask = rng.choice(["What is {} {} {}?", "Calculate {} {} {}.", "{} {} {} = ?", "How much is {} {} {}?"])
    return one(ask.format(x, sign, y), rng.choice([f"{total}", f"The answer is {total}."]))


def grammar(rng: Random) -> list[Turn]:
    verb = rng.choice(WORDS["transitive"] + WORDS["verbs_extra"])
    noun = rng.choice(WORDS["animals"] + WORDS["things"])
    word = rng.choice(ALL).lower()
    return rng.choice(
        [
            one(f"What is the plural of {noun}?", f"The plural of {noun} is {plural(noun)}."),
            one(f"What is the past tense of {verb}?", f"The past tense of {verb} is {past(verb)}."),
            one(f"Write the third person form of the verb {verb}.", f"{third(verb)}"),
            one(f"Write the -ing form of {verb}.", f"{ing(verb)}"),
            one(f"Spell the word {word}.", " ".join(word)),
            one(f"What is the first letter of {word}?", f"The first letter of {word} is {word[0]}."),
            one(f"Should I write a or an before {noun}?", f"You should write: {a(noun)}."),
            one(f"Use the word {word} in a sentence.", using(rng, word)),
        ]
    )


def using(rng: Random, word: str) -> str:
    name = rng.choice(NAMES)
    return rng.choice(
        [f'{name} wrote the word "{word}" on the board.', f"The teacher asked {name} about the word {word}.",
         f"{name} learned what {word} means.", f"I read the word {word} in a book about {plural(pick(rng, 'animals'))}."]
    )  # fmt: skip


def passage(rng: Random) -> list[Turn]:
    """Reading: a short story with facts, then questions about it."""
    name, pronoun, _, own = person(rng)
    facts = {
        "job": pick(rng, "jobs"), "place": pick(rng, "places"), "pet": pick(rng, "animals"), "thing": phrase(rng, "things"),
        "food": pick(rng, "foods"), "when": pick(rng, "times"), "age": str(rng.randint(6, 90)), "color": pick(rng, "colors"),
        "friend": rng.choice(NAMES), "room": pick(rng, "rooms"),
    }  # fmt: skip
    lines = [
        (f"{name} is {a(facts['job'])} from {facts['place']}.",
         [(f"What is {name}'s job?", f"{name} is {a(facts['job'])}."),
          (f"Where is {name} from?", f"{name} is from {facts['place']}."),
          (f"Who is from {facts['place']}?", f"{name} is from {facts['place']}.")]),
        (f"{cap(pronoun)} is {facts['age']} years old.",
         [(f"How old is {name}?", f"{name} is {facts['age']} years old.")]),
        (f"{cap(pronoun)} has {a(facts['color'] + ' ' + facts['pet'])}.",
         [(f"Which animal does {name} have?", f"{name} has {a(facts['pet'])}."),
          (f"What color is {own} {facts['pet']}?", f"The {facts['pet']} is {facts['color']}.")]),
        (f"{cap(facts['when'])}, {name} bought {a(facts['thing'])} for {own} friend {facts['friend']}.",
         [(f"What did {name} buy?", f"{name} bought {a(facts['thing'])}."),
          (f"Who is {name}'s friend?", f"{facts['friend']} is {name}'s friend."),
          (f"When did {name} go shopping?", f"{name} went shopping {facts['when']}.")]),
        (f"{cap(own)} favorite food is {facts['food']}.",
         [(f"What is {name}'s favorite food?", f"{name}'s favorite food is {facts['food']}."),
          (f"What does {name} like to eat?", f"{name} likes {facts['food']}.")]),
        (f"They met in the {facts['room']}.", [("Where did they meet?", f"They met in the {facts['room']}.")]),
    ]  # fmt: skip
    chosen = [lines[0], *sorted(rng.sample(lines[1:], rng.randint(1, 4)), key=lines.index)]
    text = " ".join(line for line, _ in chosen)
    questions = rng.sample([pair for _, pairs in chosen for pair in pairs], rng.randint(1, 3) if len(chosen) > 2 else 1)
    head = rng.choice(["{}\n\n{}", "Read the text and answer the question.\n\n{}\n\n{}", "Context: {}\nQuestion: {}"])
    turns = one(head.format(text, questions[0][0]), questions[0][1])
    for question, answer in questions[1:]:
        turns += one(question, answer)
    return turns


TASKS = [repeat, case, listing, position, naming, arithmetic, grammar, passage, passage]
