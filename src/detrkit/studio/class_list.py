"""The classes of a project, which keep their ids when they are renamed, and are kept when they are deleted."""

from __future__ import annotations

from typing import Any

from detrkit.serving.refused import RefusedError

Row = dict[str, Any]
"""`id` and `name` of a class; `former`: names that it had before; `deleted`: whether its objects are hidden."""


class ClassList:
    """Classes in the order in which they were found or added.

    Changes return the rows as they would be, so that these can be written to the disk before they hold.
    """

    def __init__(self) -> None:
        self.rows: list[Row] = []
        """All classes, also those that are deleted; replaced by changes."""

    @property
    def shown(self) -> list[Row]:
        """`id` and `name` of the classes that are not deleted."""
        return [{"id": row["id"], "name": row["name"]} for row in self.rows if not row.get("deleted")]

    @property
    def ids(self) -> set[int]:
        """Ids of the classes that are not deleted."""
        return {row["id"] for row in self.rows if not row.get("deleted")}

    @property
    def edited(self) -> bool:
        """Whether a class was renamed or deleted."""
        return any(row.get("former") or row.get("deleted") for row in self.rows)

    def find(self, name: str) -> Row | None:
        """The class of a name, or else the one that had it before; deleted ones come last."""
        rows = sorted(self.rows, key=lambda row: (bool(row.get("deleted")), row["name"] != name))
        return next((row for row in rows if name == row["name"] or name in row.get("former", ())), None)

    def source_class(self, name: str, wish: int) -> int:
        """The id of a class of the source, also where it was renamed or deleted since.

        Args:
            name: its name in the source.
            wish: its id in the source, which it gets here if it is new and the id is free.
        """
        for row in self.rows:
            if row["id"] == wish and row["name"] == name:
                return wish
        for row in self.rows:
            if name == (row.get("former") or [row["name"]])[0]:
                return int(row["id"])
        for row in self.rows:
            if row["name"] == name:
                return int(row["id"])
        taken = {row["id"] for row in self.rows}
        row = {"id": self._free_id(wish) if wish in taken else wish, "name": name}
        self.rows = [*self.rows, row]
        return int(row["id"])

    def added(self, name: str) -> tuple[list[Row], Row]:
        """The rows with a new class, and that class."""
        row = {"id": self._free_id(1), "name": name}
        return [*self.rows, row], row

    def renamed(self, class_id: int, name: str) -> list[Row]:
        """The rows with another name of a class.

        Raises:
            RefusedError: there is no such class, or another one has that name.
        """
        row = self._expect(class_id)
        if row["name"] == name:
            return self.rows
        self._expect_free(name)
        return self._replaced(class_id, {**row, "name": name, "former": [*row.get("former", ()), row["name"]]})

    def with_deleted(self, class_id: int, deleted: bool) -> list[Row]:
        """The rows with a class deleted or put back.

        Raises:
            RefusedError: there is no such class, or another one has its name by now.
        """
        row = self._expect(class_id)
        if row.get("deleted") and not deleted:
            self._expect_free(row["name"])
        kept = {key: value for key, value in row.items() if key != "deleted"}
        return self._replaced(class_id, kept | ({"deleted": True} if deleted else {}))

    def take_categories(self, categories: list[Row]) -> None:
        """Take over the categories of a COCO file, which another program may have changed, added or removed."""
        names = {category["id"]: category["name"] for category in categories}
        rows = []
        for row in self.rows:
            name = names.pop(row["id"], None)
            if name is None:
                row = {**row, "deleted": True}
            elif name != row["name"]:
                row = {**row, "name": name, "former": [*row.get("former", ()), row["name"]]}
            rows.append(row)
        self.rows = [*rows, *({"id": class_id, "name": name} for class_id, name in names.items())]

    def _expect(self, class_id: int) -> Row:
        for row in self.rows:
            if row["id"] == class_id:
                return row
        raise RefusedError(422, f"expected a class of the project, found the id {class_id}; reload the page")

    def _expect_free(self, name: str) -> None:
        if any(row["name"] == name for row in self.shown):
            raise RefusedError(
                422, f"expected a name that no other class has, found {name[:100]!r}; choose another one"
            )

    def _replaced(self, class_id: int, new: Row) -> list[Row]:
        return [new if row["id"] == class_id else row for row in self.rows]

    def _free_id(self, least: int) -> int:
        return max([least, *(int(row["id"]) + 1 for row in self.rows)])
