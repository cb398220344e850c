"""From labelled texts to a saved classifier, in Python.

python examples/python_api.py
"""

from lastblock import TextClassifier
from lastblock.data.catalog import load
from lastblock.data.split import stratified_split


def main() -> None:
    messages = load("sms-spam")
    split = stratified_split(messages.texts, messages.labels, seed=1)
    train, test = messages.take(split.train[:800]), messages.take(split.test)

    classifier = TextClassifier(random_state=1).fit(train.texts, train.labels)
    print(f"accuracy on {len(test):,} messages: {classifier.score(test.texts, test.labels):.3f}")

    classifier.save("spam-model")
    again = TextClassifier.load("spam-model")
    texts = ["You won a cash prize, call 09061701461 now", "See you at eight?"]
    for text, label, row in zip(
        texts, again.predict(texts), again.predict_proba(texts), strict=True
    ):
        print(f"{label}  {row.max():.3f}  {text}")


if __name__ == "__main__":
    main()
